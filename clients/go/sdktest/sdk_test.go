// Package sdktest shows that the official Go SDKs work through a daemon: over the unix socket, by the transport, and over HTTP. It
// is a module of its own, so that the client does not depend on them.
package sdktest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"

	headrace "headrace.dev/client"
	"headrace.dev/client/internal/stage"
)

const model = "claude-sonnet-5"

// ways are how the SDKs are told where the daemon is.
func ways(t *testing.T, at *stage.Stage) map[string]*http.Client {
	t.Helper()
	transport, err := headrace.NewTransport(at.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = transport.Close() })
	return map[string]*http.Client{"socket": {Transport: transport}, "http": {}}
}

func params(text string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: model, MaxTokens: 20, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
	}
}

func TestAnthropic(t *testing.T) {
	at := stage.Start(t)
	ctx := context.Background()
	for way, carrier := range ways(t, at) {
		client := anthropic.NewClient(
			option.WithHTTPClient(carrier), option.WithBaseURL(at.HTTP), option.WithAPIKey("unused"), option.WithMaxRetries(0),
		)
		t.Run(way+": a message", func(t *testing.T) {
			message, err := client.Messages.New(ctx, params("message"))
			if err != nil || !strings.HasPrefix(message.Content[0].Text, `You said: "message"`) {
				t.Fatal(err, message)
			}
		})
		t.Run(way+": a stream", func(t *testing.T) {
			stream := client.Messages.NewStreaming(ctx, params("stream by "+way))
			message := anthropic.Message{}
			events := 0
			for stream.Next() {
				events++
				if err := message.Accumulate(stream.Current()); err != nil {
					t.Fatal(err)
				}
			}
			if stream.Err() != nil || events < 5 || !strings.HasPrefix(message.Content[0].Text, "You said:") {
				t.Fatal(stream.Err(), events, message)
			}
		})
		t.Run(way+": a count of tokens, and models", func(t *testing.T) {
			count, err := client.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{
				Model: model, Messages: params("count").Messages,
			})
			if err != nil || count.InputTokens == 0 {
				t.Fatal(err, count)
			}
			models, err := client.Models.List(ctx, anthropic.ModelListParams{})
			if err != nil || len(models.Data) == 0 {
				t.Fatal(err, models)
			}
		})
		t.Run(way+": a timeout is the context's", func(t *testing.T) {
			at.Fault(t, `{"kind":"hang","text":"late-`+way+`","count":100}`)
			_, err := client.Messages.New(ctx, params("late-"+way), option.WithRequestTimeout(1200*time.Millisecond))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			at.Gone(t, "late-"+way)
		})
		t.Run(way+": an error is the SDK's", func(t *testing.T) {
			_, err := client.Models.Get(ctx, "none", anthropic.ModelGetParams{})
			var said *anthropic.Error
			if !errors.As(err, &said) || said.StatusCode != 404 || said.RequestID == "" {
				t.Fatal(err)
			}
		})
	}
}

func TestOpenAI(t *testing.T) {
	at := stage.Start(t)
	ctx := context.Background()
	for way, carrier := range ways(t, at) {
		client := openai.NewClient(
			openaioption.WithHTTPClient(carrier), openaioption.WithBaseURL(at.HTTP+"/v1"), openaioption.WithAPIKey("unused"),
		)
		asked := openai.ChatCompletionNewParams{
			Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("chat")},
		}
		t.Run(way+": a chat", func(t *testing.T) {
			said, err := client.Chat.Completions.New(ctx, asked)
			if err != nil || !strings.HasPrefix(said.Choices[0].Message.Content, `You said: "chat"`) {
				t.Fatal(err, said)
			}
		})
		t.Run(way+": a stream", func(t *testing.T) {
			stream := client.Chat.Completions.NewStreaming(ctx, asked)
			var text strings.Builder
			for stream.Next() {
				if chunk := stream.Current(); len(chunk.Choices) > 0 {
					text.WriteString(chunk.Choices[0].Delta.Content)
				}
			}
			if stream.Err() != nil || !strings.HasPrefix(text.String(), `You said: "chat"`) {
				t.Fatal(stream.Err(), text.String())
			}
		})
	}
}
