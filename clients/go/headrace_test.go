package headrace_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	headrace "headrace.dev/client"
	v1 "headrace.dev/client/headracev1"
	"headrace.dev/client/internal/stage"
)

const model = "claude-sonnet-5"

func transport(t *testing.T, at *stage.Stage, options ...headrace.Option) *http.Client {
	t.Helper()
	made, err := headrace.NewTransport(at.Address(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return &http.Client{Transport: made}
}

func ask(text, more string) io.Reader {
	return strings.NewReader(`{"model":"` + model + `","max_tokens":20,"messages":[{"role":"user","content":"` + text + `"}]` + more + `}`)
}

func params(text string) *v1.MessageParams {
	return &v1.MessageParams{
		Model:     proto.String(model),
		MaxTokens: proto.Int64(20),
		Messages: []*v1.InputMessage{{
			Role:    proto.String("user"),
			Content: &v1.Content{Content: &v1.Content_Text{Text: text}},
		}},
	}
}

func TestTransport(t *testing.T) {
	at := stage.Start(t)
	client := transport(t, at, headrace.WithCaller("gopher"))

	t.Run("a repeat is answered from the cache", func(t *testing.T) {
		var bodies [2][]byte
		for n, source := range []string{"upstream", "cache"} {
			answer, err := client.Post("http://anywhere/v1/messages", "application/json", ask("go", ""))
			if err != nil {
				t.Fatal(err)
			}
			bodies[n], err = io.ReadAll(answer.Body)
			if err != nil || answer.StatusCode != 200 || answer.Header.Get("X-Headrace-Source") != source {
				t.Fatal(err, answer.Status, answer.Header)
			}
		}
		if !bytes.Equal(bodies[0], bodies[1]) {
			t.Fatalf("%s\n%s", bodies[0], bodies[1])
		}
	})

	t.Run("a refusal is a response", func(t *testing.T) {
		answer, err := client.Get("http://anywhere/v1/models/none")
		if err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != 404 || !bytes.Contains(said, []byte("not_found_error")) {
			t.Fatalf("%s %s", answer.Status, said)
		}
	})

	t.Run("a body of megabytes streams up in little memory", func(t *testing.T) {
		const size = 64 << 20
		at.Answer(t, `{"path":"/v1/things","method":"POST","status":200,"json":{}}`)
		hash := sha256.New()
		body := io.TeeReader(io.LimitReader(rand.Reader, size), hash)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		request, _ := http.NewRequest("POST", "http://anywhere/v1/things", body)
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 32<<20 {
			t.Fatalf("the heap grew by %d bytes", grown)
		}
		visit := at.Last(t, "path=/v1/things")
		if visit.Size != size || visit.Hash != hex.EncodeToString(hash.Sum(nil)) {
			t.Fatalf("%+v", visit)
		}
	})

	t.Run("a body that breaks off is the caller's own error", func(t *testing.T) {
		broken := errors.New("broken")
		body := io.MultiReader(io.LimitReader(rand.Reader, 1<<20), failing{broken})
		request, _ := http.NewRequest("POST", "http://anywhere/v1/things", body)
		if _, err := client.Do(request); !errors.Is(err, broken) {
			t.Fatal(err)
		}
	})
}

func TestLeaving(t *testing.T) {
	at := stage.Start(t)
	client := transport(t, at)
	at.Fault(t, `{"kind":"hang","after_deltas":2,"count":100}`)
	before := runtime.NumGoroutine()

	t.Run("closing a stream hangs up", func(t *testing.T) {
		answer, err := client.Post("http://anywhere/v1/messages", "application/json", ask("closing", `,"stream":true`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := answer.Body.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		at.Gone(t, "closing")
	})

	t.Run("so does cancelling", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		request, _ := http.NewRequestWithContext(ctx, "POST", "http://anywhere/v1/messages", ask("cancelling", `,"stream":true`))
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := io.ReadAll(answer.Body); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		at.Gone(t, "cancelling")
	})

	t.Run("a deadline is one", func(t *testing.T) {
		at.Fault(t, `{"kind":"hang","count":100}`)
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		request, _ := http.NewRequestWithContext(ctx, "POST", "http://anywhere/v1/messages", ask("late", ""))
		_, err := client.Do(request)
		var timed net.Error
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timed) || !timed.Timeout() {
			t.Fatal(err)
		}
	})

	t.Run("nothing stays behind", func(t *testing.T) {
		deadline := time.Now().Add(10 * time.Second)
		for runtime.NumGoroutine() > before+4 { // the connection's own
			if time.Now().After(deadline) {
				t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func TestNobodyThere(t *testing.T) {
	made, err := headrace.NewTransport("unix:/nowhere/headrace.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	_, err = (&http.Client{Transport: made}).Get("http://anywhere/v1/models")
	var explained *headrace.Error
	if !errors.As(err, &explained) || explained.Code != codes.Unavailable || !explained.Temporary() {
		t.Fatal(err)
	}
}

func TestClient(t *testing.T) {
	at := stage.Start(t)
	client, err := headrace.Dial(at.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	t.Run("a message", func(t *testing.T) {
		reply, err := client.Messages.CreateMessage(ctx, &v1.CreateMessageRequest{Params: params("typed")})
		if err != nil {
			t.Fatal(err)
		}
		if text := headrace.Text(reply.GetMessage()); !strings.HasPrefix(text, `You said: "typed"`) {
			t.Fatal(text)
		}
		if reply.GetOrigin().GetSource() != v1.AnswerSource_ANSWER_SOURCE_UPSTREAM {
			t.Fatal(reply.GetOrigin())
		}
	})

	t.Run("a ticket", func(t *testing.T) {
		submitted, err := client.Messages.SubmitMessage(ctx, &v1.SubmitMessageRequest{Params: params("later")})
		if err != nil {
			t.Fatal(err)
		}
		ended, err := client.Tickets.WaitTicket(ctx, &v1.WaitTicketRequest{Id: submitted.GetTicket().GetId()})
		if err != nil || headrace.Text(ended.GetTicket().GetMessage()) == "" {
			t.Fatal(err, ended)
		}
	})

	t.Run("models", func(t *testing.T) {
		listed, err := client.Models.ListModels(ctx, &v1.ListModelsRequest{PageSize: 1})
		if err != nil || len(listed.GetModels()) != 1 || listed.GetNextPageToken() == "" {
			t.Fatal(err, listed)
		}
	})

	t.Run("an error that says why", func(t *testing.T) {
		_, err := client.Messages.CreateMessage(ctx, &v1.CreateMessageRequest{})
		explained, ok := headrace.Explain(err)
		if !ok || explained.Reason != "INVALID_CALL" || explained.Code != codes.InvalidArgument {
			t.Fatal(err)
		}
	})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
