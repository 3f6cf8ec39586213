package headrace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is why a call failed, as the daemon says it. It is a net.Error, and unwraps to context.DeadlineExceeded or
// context.Canceled where it is one of the two.
type Error struct {
	Code       codes.Code
	Message    string
	Reason     string            // a constant, such as "BUDGET_EXHAUSTED"; "" if gRPC itself failed
	Metadata   map[string]string // all that varies in the message
	RetryAfter time.Duration     // 0 if waiting does not help, or nobody knows
}

func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("headrace: %s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("headrace: %s: %s", e.Reason, e.Message)
}

// Timeout says whether a deadline passed.
func (e *Error) Timeout() bool { return e.Code == codes.DeadlineExceeded }

// Temporary says whether the daemon could not be reached, or lost its own way to upstream.
func (e *Error) Temporary() bool { return e.Code == codes.Unavailable }

// Unwrap lets errors.Is find the context's own errors.
func (e *Error) Unwrap() error {
	switch e.Code {
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	case codes.Canceled:
		return context.Canceled
	}
	return nil
}

// Explain returns what an error of a call means, or false if it is none of gRPC's.
func Explain(err error) (*Error, bool) {
	var known *Error
	if errors.As(err, &known) {
		return known, true
	}
	said, ok := status.FromError(err)
	if err == nil || !ok {
		return nil, false
	}
	explained := &Error{Code: said.Code(), Message: said.Message()}
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			explained.Reason, explained.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.RetryInfo:
			explained.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	return explained, true
}

// explained returns what err means, or err itself.
func explained(err error) error {
	if found, ok := Explain(err); ok {
		return found
	}
	return err
}
