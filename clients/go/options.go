package headrace

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// maxMessage is what the daemon takes and gives in one message, in bytes.
const maxMessage = 64 << 20

type settings struct {
	defaults
	apiKey  string
	secrets credentials.TransportCredentials
	dial    []grpc.DialOption
}

// Option changes how a daemon is called.
type Option func(*settings)

// WithAPIKey presents a key, where the daemon asks for one: made by `headrace keys create`.
func WithAPIKey(key string) Option { return func(s *settings) { s.apiKey = key } }

// WithTransportCredentials speaks TLS, with a client certificate where the daemon asks for one. Without it the connection is in
// the clear, as fits a unix socket or loopback.
func WithTransportCredentials(secrets credentials.TransportCredentials) Option {
	return func(s *settings) { s.secrets = secrets }
}

// WithDialOptions adds what gRPC itself can be told.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}

func read(options []Option) *settings {
	s := &settings{secrets: insecure.NewCredentials()}
	for _, option := range options {
		option(s)
	}
	return s
}

// connect makes a connection that opens with the first call. The address is "host:port" or "unix:/path".
func (s *settings) connect(address string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(s.secrets),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
	if s.apiKey != "" {
		options = append(options, grpc.WithPerRPCCredentials(key(s.apiKey)))
	}
	options = append(options, s.interceptors()...)
	return grpc.NewClient(address, append(options, s.dial...)...)
}

// key is a daemon's key, as metadata of every call.
type key string

func (k key) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"x-api-key": string(k)}, nil
}

func (key) RequireTransportSecurity() bool { return false }
