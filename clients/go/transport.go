package headrace

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"

	v1 "headrace.dev/client/headracev1"
)

// chunk is how much of a body goes into one message, in bytes.
const chunk = 256 << 10

// Transport is an http.RoundTripper that carries requests to a daemon over gRPC, whatever host their URLs name.
//
// Bodies stream in both directions, and each side waits for the other. Closing a response's body early, or cancelling the
// request's context, hangs up. What HTTP can say comes back as HTTP: a refusal of the daemon's is a response with its status.
type Transport struct {
	api      v1.ApiServiceClient
	conn     *grpc.ClientConn
	defaults defaults
}

// NewTransport returns a transport to the daemon at "unix:/path" or "host:port". It connects with the first request.
func NewTransport(address string, options ...Option) (*Transport, error) {
	settings := read(options)
	conn, err := settings.connect(address)
	if err != nil {
		return nil, err
	}
	return &Transport{api: v1.NewApiServiceClient(conn), conn: conn, defaults: settings.defaults}, nil
}

// Close ends the connection; requests that run end with it.
func (t *Transport) Close() error { return t.conn.Close() }

// RoundTrip carries one request.
func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(request.Context())
	stream, err := t.api.Call(ctx)
	if err != nil {
		cancel(err)
		closeBody(request)
		return nil, explained(err)
	}
	if err := t.send(ctx, cancel, stream, request); err != nil {
		cancel(err)
		return nil, explained(err)
	}
	first, err := stream.Recv()
	if err != nil {
		err = whole(ctx, err)
		cancel(err)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return response(request, first.GetHead(), &body{ctx: ctx, cancel: cancel, stream: stream}), nil
}

// send says the head and, if it is small, the body; a larger one goes on in the background.
func (t *Transport) send(ctx context.Context, cancel context.CancelCauseFunc, stream v1.ApiService_CallClient, request *http.Request) error {
	head := t.head(request)
	if request.Body == nil || request.Body == http.NoBody {
		return begin(stream, head, true)
	}
	// Whoever reads a body that never comes is freed when the call is over.
	stop := context.AfterFunc(ctx, func() { closeBody(request) })
	buffer := make([]byte, chunk)
	read, err := io.ReadFull(request.Body, buffer)
	head.Body = buffer[:read]
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		stop()
		closeBody(request)
		return begin(stream, head, true)
	}
	if err != nil {
		stop()
		closeBody(request)
		return err
	}
	if err := begin(stream, head, false); err != nil {
		return err
	}
	go func() {
		defer closeBody(request)
		defer stop()
		if err := pump(stream, request.Body); err != nil {
			cancel(err)
		}
	}()
	return nil
}

func begin(stream v1.ApiService_CallClient, head *v1.CallRequestHead, isWhole bool) error {
	err := stream.Send(&v1.CallRequest{Part: &v1.CallRequest_Head{Head: head}})
	if errors.Is(err, io.EOF) {
		return nil // the daemon has answered already; Recv says what
	}
	if err == nil && isWhole {
		err = stream.CloseSend()
	}
	return err
}

// pump sends the rest of a body. Its error is the body's own; that of the stream comes out of Recv.
func pump(stream v1.ApiService_CallClient, rest io.Reader) error {
	buffer := make([]byte, chunk)
	for {
		read, err := rest.Read(buffer)
		if read > 0 {
			if stream.Send(&v1.CallRequest{Part: &v1.CallRequest_Chunk{Chunk: buffer[:read]}}) != nil {
				return nil
			}
		}
		if err == io.EOF {
			return stream.CloseSend()
		}
		if err != nil {
			return err
		}
	}
}

func (t *Transport) head(request *http.Request) *v1.CallRequestHead {
	host := request.Host
	if host == "" {
		host = request.URL.Host
	}
	// They say how addresses in answers are to begin: batches name where their results are.
	headers := []*v1.Header{{Name: "host", Value: host}, {Name: "x-forwarded-proto", Value: request.URL.Scheme}}
	for name, values := range request.Header {
		for _, value := range values {
			headers = append(headers, &v1.Header{Name: strings.ToLower(name), Value: value})
		}
	}
	if request.Header.Get("Accept-Encoding") == "" {
		headers = append(headers, &v1.Header{Name: "accept-encoding", Value: "identity"})
	}
	if request.ContentLength > 0 {
		headers = append(headers, &v1.Header{Name: "content-length", Value: strconv.FormatInt(request.ContentLength, 10)})
	}
	headers = append(headers, t.defaults.headers(request.Header)...)
	method := request.Method
	if method == "" {
		method = http.MethodGet
	}
	return &v1.CallRequestHead{
		Method: method, Path: request.URL.EscapedPath(), Query: request.URL.RawQuery, Headers: headers,
	}
}

func response(request *http.Request, head *v1.CallResponseHead, content *body) *http.Response {
	header := make(http.Header, len(head.GetHeaders()))
	for _, said := range head.GetHeaders() {
		header.Add(said.GetName(), said.GetValue())
	}
	length, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil {
		length = -1
	}
	code := int(head.GetStatus())
	return &http.Response{
		Status: strconv.Itoa(code) + " " + http.StatusText(code), StatusCode: code,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: length, Body: content, Request: request,
	}
}

func closeBody(request *http.Request) {
	if request.Body != nil {
		_ = request.Body.Close()
	}
}

// body is a response's body as it comes.
type body struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stream v1.ApiService_CallClient
	rest   []byte
	err    error
}

func (b *body) Read(into []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		part, err := b.stream.Recv()
		if err != nil {
			b.err = whole(b.ctx, err)
			b.cancel(b.err)
			continue
		}
		b.rest = part.GetChunk()
	}
	copied := copy(into, b.rest)
	b.rest = b.rest[copied:]
	return copied, nil
}

// Close hangs up, if there is more to come.
func (b *body) Close() error {
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	b.rest = nil
	b.cancel(context.Canceled)
	return nil
}

// whole returns the end of a stream as io.EOF, what broke off in the request's own body as that, and all else explained.
func whole(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, ctx.Err()) {
		return cause
	}
	return explained(err)
}
