package sdktest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"

	"headrace.dev/client/internal/stage"
)

func chat(text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)},
	}
}

func sdks(at *stage.Stage) (anthropic.Client, openai.Client) {
	return anthropic.NewClient(option.WithBaseURL(at.HTTP), option.WithAPIKey("unused"), option.WithMaxRetries(0)),
		openai.NewClient(
			openaioption.WithBaseURL(at.HTTP+"/v1"), openaioption.WithAPIKey("unused"), openaioption.WithMaxRetries(0),
		)
}

// An SDK with a timeout hears upstream's word, not that it took too long, while upstream says no throughout.
func TestOwnClocks(t *testing.T) {
	at := stage.Start(t, "RETRY__MAX_ATTEMPTS=1000")
	claude, gpt := sdks(at)
	kinds := map[string]int{"overloaded": 529, "rate_limit": 429, "api_error": 500}
	var rules []string
	for kind := range kinds {
		rules = append(rules, fmt.Sprintf(`{"kind":%q,"path":"/v1/*","text":"clock %s","retry_after_s":0.3}`, kind, kind))
	}
	at.Fault(t, "["+strings.Join(rules, ",")+"]")
	t.Run("rings after upstream's word", func(t *testing.T) {
		for kind, status := range kinds {
			t.Run(kind+", whole", func(t *testing.T) {
				t.Parallel()
				bound := option.WithRequestTimeout(4 * time.Second)
				_, err := claude.Messages.New(context.Background(), params("clock "+kind+" whole"), bound)
				var said *anthropic.Error
				if !errors.As(err, &said) || said.StatusCode != status {
					t.Fatal(err)
				}
			})
			t.Run(kind+", stream", func(t *testing.T) {
				t.Parallel()
				bound := option.WithRequestTimeout(4 * time.Second)
				stream := claude.Messages.NewStreaming(context.Background(), params("clock "+kind+" stream"), bound)
				for stream.Next() {
				}
				if err := stream.Err(); err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
			})
			t.Run(kind+", chat", func(t *testing.T) {
				t.Parallel()
				bound := openaioption.WithRequestTimeout(4 * time.Second)
				_, err := gpt.Chat.Completions.New(context.Background(), chat("clock "+kind+" chat"), bound)
				var said *openai.Error
				if !errors.As(err, &said) || said.StatusCode != status {
					t.Fatal(err)
				}
			})
		}
	})
}

// A stream that waits has its head early, and signs of life that readers of events skip.
func TestSignsOfLife(t *testing.T) {
	at := stage.Start(t, "LISTEN__STREAM_OPENS=1s")
	claude, gpt := sdks(at)
	var rules []string
	for _, name := range []string{"plain.", "anthropic.", "openai."} {
		rules = append(rules, fmt.Sprintf(`{"kind":"rate_limit","path":"/v1/*","text":"waits: %s","count":1,"retry_after_s":12}`, name))
	}
	for _, name := range []string{"anthropic.", "openai."} {
		rules = append(rules, fmt.Sprintf(`{"kind":"rate_limit","path":"/v1/*","text":"spent: %s","count":1,"retry_after_s":3}`, name))
	}
	rules = append(rules, `{"kind":"spend_limit","path":"/v1/*","text":"spent:"}`)
	at.Fault(t, "["+strings.Join(rules, ",")+"]")
	ctx := context.Background()

	t.Run("all at once", func(t *testing.T) {
		t.Run("on the wire", func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			body := `{"model":"` + model + `","max_tokens":20,"stream":true,"messages":[{"role":"user","content":"waits: plain."}]}`
			request, _ := http.NewRequest("POST", at.HTTP+"/v1/messages", strings.NewReader(body))
			request.Header.Set("anthropic-version", "2023-06-01")
			answer, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			if headed := time.Since(began); headed > 4*time.Second || answer.StatusCode != 200 {
				t.Fatal(headed, answer.Status)
			}
			signs, isWhole := 0, false
			for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), ":") {
					signs++
				}
				isWhole = isWhole || lines.Text() == "event: message_stop"
			}
			if signs == 0 || !isWhole {
				t.Fatal(signs, isWhole)
			}
		})
		t.Run("Anthropic's SDK", func(t *testing.T) {
			t.Parallel()
			stream := claude.Messages.NewStreaming(ctx, params("waits: anthropic."))
			message := anthropic.Message{}
			for stream.Next() {
				if err := message.Accumulate(stream.Current()); err != nil {
					t.Fatal(err)
				}
			}
			if stream.Err() != nil || !strings.HasPrefix(message.Content[0].Text, "You said:") {
				t.Fatal(stream.Err(), message)
			}
		})
		t.Run("OpenAI's SDK", func(t *testing.T) {
			t.Parallel()
			stream := gpt.Chat.Completions.NewStreaming(ctx, chat("waits: openai."))
			var text strings.Builder
			for stream.Next() {
				if chunk := stream.Current(); len(chunk.Choices) > 0 {
					text.WriteString(chunk.Choices[0].Delta.Content)
				}
			}
			if stream.Err() != nil || !strings.HasPrefix(text.String(), "You said:") {
				t.Fatal(stream.Err(), text.String())
			}
		})
		t.Run("a failure after the head", func(t *testing.T) {
			t.Parallel()
			stream := claude.Messages.NewStreaming(ctx, params("spent: anthropic."))
			for stream.Next() {
			}
			if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "rate_limit_error") {
				t.Fatal(err)
			}
		})
		t.Run("a failure after the head of a chat", func(t *testing.T) {
			t.Parallel()
			stream := gpt.Chat.Completions.NewStreaming(ctx, chat("spent: openai."))
			for stream.Next() {
			}
			if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "rate_limit_error") {
				t.Fatal(err)
			}
		})
	})
}
