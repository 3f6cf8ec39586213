package headrace

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "headrace.dev/client/headracev1"
)

// defaults are what every call has, unless it says otherwise: a typed request in its options, an HTTP request in its headers.
type defaults struct {
	caller string
	lane   string
	labels map[string]string
}

// WithCaller says who calls, where the daemon asks for no keys.
func WithCaller(name string) Option { return func(s *settings) { s.caller = name } }

// WithLane chooses the class of traffic: "interactive", "standard", "batch" or one of the daemon's own.
func WithLane(name string) Option { return func(s *settings) { s.lane = name } }

// WithLabels says what calls are for, by the names that the daemon lets the caller use. A typed request's own go beside them,
// and win; an HTTP request's own take their place.
func WithLabels(labels map[string]string) Option {
	return func(s *settings) { s.labels = maps.Clone(labels) }
}

// interceptors puts the defaults into typed requests.
func (d defaults) interceptors() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(d.unary),
		grpc.WithChainStreamInterceptor(d.stream),
	}
}

func (d defaults) unary(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	return invoke(ctx, method, d.into(request), reply, conn, options...)
}

func (d defaults) stream(ctx context.Context, description *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, description, conn, method, options...)
	if err != nil {
		return nil, err
	}
	return filling{stream, d}, nil
}

// filling is a stream whose requests get the defaults.
type filling struct {
	grpc.ClientStream
	defaults defaults
}

func (f filling) SendMsg(request any) error { return f.ClientStream.SendMsg(f.defaults.into(request)) }

// into returns a request with the defaults in its options, if it has any. The request itself is its caller's, and stays as it is.
func (d defaults) into(request any) any {
	message, ok := request.(proto.Message)
	if !ok {
		return request
	}
	asked := message.ProtoReflect()
	field := asked.Descriptor().Fields().ByName("options")
	if field == nil {
		return request
	}
	options, ok := asked.Get(field).Message().Interface().(*v1.CallOptions)
	if !ok {
		return request
	}
	filled := asked.New()
	asked.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		filled.Set(field, value)
		return true
	})
	filled.SetUnknown(asked.GetUnknown())
	filled.Set(field, protoreflect.ValueOfMessage(d.beside(options).ProtoReflect()))
	return filled.Interface()
}

// beside returns a copy of a request's own options with what they do not say.
func (d defaults) beside(own *v1.CallOptions) *v1.CallOptions {
	options := &v1.CallOptions{Labels: maps.Clone(d.labels)}
	proto.Merge(options, own)
	if options.Caller == "" {
		options.Caller = d.caller
	}
	if options.Lane == v1.Lane_LANE_UNSPECIFIED && options.LaneName == "" {
		options.LaneName = d.lane
	}
	return options
}

// headers returns them for an HTTP request, but for those that it has.
func (d defaults) headers(own http.Header) []*v1.Header {
	labels := make([]string, 0, len(d.labels))
	for _, name := range slices.Sorted(maps.Keys(d.labels)) {
		labels = append(labels, name+"="+d.labels[name])
	}
	said := []*v1.Header{
		{Name: "x-headrace-caller", Value: d.caller},
		{Name: "x-headrace-lane", Value: d.lane},
		{Name: "x-headrace-labels", Value: strings.Join(labels, ", ")},
	}
	return slices.DeleteFunc(said, func(header *v1.Header) bool { return header.Value == "" || own.Get(header.Name) != "" })
}
