"""`headrace simulate`: the options, as the command line spells them."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.errors import StartupError
from headrace.simulator.options import Options
from headrace.simulator.server import DEFAULT_PORT, main

_DEFAULT = Options()
_SHARE = "Share of calls, 0 to 1, "


def simulate(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = DEFAULT_PORT,
    instant: Annotated[bool, typer.Option("--instant", help="No waiting at all, whatever the timing says.")] = False,
    first_token: Annotated[float, typer.Option(help="Seconds to the first token.")] = _DEFAULT.first_token_s,
    tokens_per_second: Annotated[float, typer.Option(help="Speed of an answer; 0 is all at once.")] = _DEFAULT.tokens_per_s,
    jitter: Annotated[float, typer.Option(help="Timing varies by up to this share.")] = _DEFAULT.jitter,
    answer_tokens: Annotated[tuple[int, int], typer.Option(help="Length of an answer, from and to.")] = _DEFAULT.answer_tokens,
    key: Annotated[list[str] | None, typer.Option(help="An API key to accept; none given: any. May be repeated.")] = None,
    admin_key: Annotated[
        list[str] | None, typer.Option(help="An Admin key, beside all sk-ant-admin...; may be repeated.")
    ] = None,
    requests_per_minute: Annotated[int, typer.Option(help="Limit of each model class; 0 is none.")] = 0,
    input_tokens_per_minute: Annotated[int, typer.Option(help="Limit of each model class; 0 is none.")] = 0,
    output_tokens_per_minute: Annotated[int, typer.Option(help="Limit of each model class; 0 is none.")] = 0,
    burst: Annotated[float, typer.Option(help="Seconds of its rate that a limit can save up.")] = _DEFAULT.burst_s,
    concurrency: Annotated[int, typer.Option(help="Calls of one model class at once; 0 is any number.")] = 0,
    rate_429: Annotated[float, typer.Option(help=_SHARE + "refused with 429 and a retry-after.")] = 0,
    rate_529: Annotated[float, typer.Option(help=_SHARE + "refused with 529.")] = 0,
    rate_500: Annotated[float, typer.Option(help=_SHARE + "refused with 500.")] = 0,
    rate_hang: Annotated[float, typer.Option(help=_SHARE + "never answered.")] = 0,
    rate_reset: Annotated[float, typer.Option(help=_SHARE + "whose connection is reset.")] = 0,
    rate_half_stream: Annotated[float, typer.Option(help=_SHARE + "cut in mid-stream (streams only).")] = 0,
    rate_stream_error: Annotated[float, typer.Option(help=_SHARE + "with an error event (streams only).")] = 0,
    batch_seconds: Annotated[float, typer.Option(help="How long a batch takes.")] = _DEFAULT.batch_s,
    max_file_bytes: Annotated[int, typer.Option(help="The largest file; 0 is no limit.")] = _DEFAULT.max_file_bytes,
    encoding: Annotated[list[str] | None, typer.Option(help="Offer gzip, br or zstd; may be repeated.")] = None,
    retry_after: Annotated[tuple[float, float], typer.Option(help="Seconds, from and to.")] = _DEFAULT.retry_after_s,
    seed: Annotated[int | None, typer.Option(help="Makes chance the same in each run.")] = None,
    journal: Annotated[int, typer.Option(help="How many calls are remembered.")] = _DEFAULT.journal,
) -> None:
    """Run a stand-in for the Anthropic API, to rehearse a configuration on; see docs/simulator.md."""
    try:
        options = Options(
            first_token_s=0 if instant else first_token,
            tokens_per_s=0 if instant else tokens_per_second,
            jitter=jitter,
            answer_tokens=answer_tokens,
            keys=tuple(key or ()),
            admin_keys=tuple(admin_key or ()),
            batch_s=0 if instant else batch_seconds,
            max_file_bytes=max_file_bytes,
            encodings=tuple(encoding or ()),
            requests_per_minute=requests_per_minute,
            input_tokens_per_minute=input_tokens_per_minute,
            output_tokens_per_minute=output_tokens_per_minute,
            burst_s=burst,
            concurrency=concurrency,
            rate_429=rate_429,
            rate_529=rate_529,
            rate_500=rate_500,
            rate_hang=rate_hang,
            rate_reset=rate_reset,
            rate_half_stream=rate_half_stream,
            rate_stream_error=rate_stream_error,
            retry_after_s=retry_after,
            seed=seed,
            journal=journal,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        main(options, host, port)
    except StartupError as error:
        typer.echo(f"headrace: {error}", err=True)
        raise typer.Exit(1) from error
