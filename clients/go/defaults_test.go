package headrace_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	headrace "headrace.dev/client"
	v1 "headrace.dev/client/headracev1"
	"headrace.dev/client/internal/stage"
)

// used counts the calls by lane and labels.
func used(t *testing.T, client *headrace.Client) map[string]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	told, err := client.Usage.GetUsage(ctx, &v1.GetUsageRequest{GroupBy: []string{"lane", "labels"}})
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int64)
	for _, row := range told.GetRows() {
		counts[strings.Join(row.GetGroup(), " ")] = row.GetCalls().GetUpstream() + row.GetCalls().GetCache()
	}
	return counts
}

func TestDefaults(t *testing.T) {
	at := stage.Start(t, "LANE__NIGHTLY__SHARE=0.1", `CALLER__ANN__LABELS=["env", "feature"]`)
	options := []headrace.Option{
		headrace.WithCaller("ann"), headrace.WithLane("nightly"), headrace.WithLabels(map[string]string{"env": "prod"}),
	}
	client, err := headrace.Dial(at.GRPC, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	t.Run("typed requests have them, and stay as they are", func(t *testing.T) {
		own := &v1.CallOptions{Labels: map[string]string{"feature": "search"}, CacheControl: &v1.CacheControl{NoStore: true}}
		create := &v1.CreateMessageRequest{Params: params("create"), Options: own}
		before := proto.Clone(create)
		if _, err := client.Messages.CreateMessage(ctx, create); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(before, create) {
			t.Fatal(create)
		}
		stream, err := client.Messages.StreamMessage(ctx, &v1.StreamMessageRequest{Params: params("stream"), Options: own})
		for err == nil {
			_, err = stream.Recv()
		}
		if err != io.EOF {
			t.Fatal(err)
		}
		if _, err := client.Models.ListModels(ctx, &v1.ListModelsRequest{PageSize: 1}); err != nil {
			t.Fatal(err)
		}
		want := map[string]int64{"nightly env=prod,feature=search": 2, "nightly env=prod": 1}
		if got := used(t, client); !maps.Equal(got, want) {
			t.Fatal(got)
		}
	})

	t.Run("HTTP requests have them as headers, and their own win", func(t *testing.T) {
		over := transport(t, at, options...)
		for _, own := range []http.Header{{}, {"X-Headrace-Lane": {"batch"}, "X-Headrace-Labels": {"env=test"}}} {
			request, _ := http.NewRequest("POST", "http://anywhere/v1/messages", ask("raw", ""))
			request.Header = own
			answer, err := over.Do(request)
			if err != nil || answer.StatusCode != 200 {
				t.Fatal(err, answer)
			}
			_, _ = io.Copy(io.Discard, answer.Body)
		}
		want := map[string]int64{"nightly env=prod,feature=search": 2, "nightly env=prod": 2, "batch env=test": 1}
		if got := used(t, client); !maps.Equal(got, want) {
			t.Fatal(got)
		}
	})

	t.Run("what a request says itself wins", func(t *testing.T) {
		for _, own := range []*v1.CallOptions{{Lane: v1.Lane_LANE_INTERACTIVE}, {LaneName: "interactive"}} {
			own.Labels = map[string]string{"env": "own"}
			if _, err := client.Messages.CreateMessage(ctx, &v1.CreateMessageRequest{Params: params("own"), Options: own}); err != nil {
				t.Fatal(err)
			}
		}
		if got := used(t, client)["interactive env=own"]; got != 2 {
			t.Fatal(got)
		}
	})

	t.Run("a lane that is none is told those there are", func(t *testing.T) {
		own := &v1.CallOptions{LaneName: "nigthly"}
		_, err := client.Messages.CreateMessage(ctx, &v1.CreateMessageRequest{Params: params("none"), Options: own})
		explained, ok := headrace.Explain(err)
		if !ok || explained.Code != codes.InvalidArgument || !strings.Contains(explained.Message, "batch, nightly") {
			t.Fatal(errors.Unwrap(err), err)
		}
	})
}
