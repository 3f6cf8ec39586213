// Command asker asks a daemon what it is told to, line by line, for tests that are written in another language.
//
// A line of JSON on its input is a question: name, key, way ("unary", "stream", "submit", or "wait", whose prompt is a ticket), grpc
// (host:port), prompt, timeout_ms. For each of them there is one on its output: name; the id and text of what came; why it ended
// otherwise, the reason in it, whether to ask again; took_ms.
//
// gRPC's own clock would end a call at its deadline, whatever the daemon does. So the deadline is told to the daemon alone, and it is
// the daemon's word that is waited for: two seconds past the deadline a call that has not ended is said to hang.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	headrace "headrace.dev/client"
	v1 "headrace.dev/client/headracev1"
)

// Asked is one question.
type Asked struct {
	Name, Key, Way, Grpc, Prompt string
	TimeoutMs                    int64 `json:"timeout_ms"`
}

// Heard is what came of it.
type Heard struct {
	Name   string `json:"name"`
	ID     string `json:"id,omitempty"`
	Text   string `json:"text,omitempty"`
	Why    string `json:"why,omitempty"`
	Reason string `json:"reason,omitempty"`
	Again  bool   `json:"again,omitempty"`
	TookMs int64  `json:"took_ms"`
}

const (
	hangs    = 2 * time.Second
	longest  = 1 << 20
	tokens   = 400
	version  = "2023-06-01"
	asksSome = "claude-haiku-4-5"
)

var errEarly = errors.New("the stream ended early")

type asker struct {
	clients map[string]*headrace.Client
	lock    sync.Mutex
	out     *json.Encoder
}

func main() {
	here := &asker{clients: map[string]*headrace.Client{}, out: json.NewEncoder(os.Stdout)}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, longest), longest)
	for lines.Scan() {
		var asked Asked
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		go here.say(asked)
	}
}

func (a *asker) say(asked Asked) {
	began, limit := time.Now(), time.Duration(asked.TimeoutMs)*time.Millisecond
	done := make(chan Heard, 1)
	go func() { done <- a.ask(asked, limit) }()
	var heard Heard
	select {
	case heard = <-done:
	case <-time.After(limit + hangs):
		heard = Heard{Why: "hangs", Again: true}
	}
	heard.Name, heard.TookMs = asked.Name, time.Since(began).Milliseconds()
	a.lock.Lock()
	defer a.lock.Unlock()
	_ = a.out.Encode(heard)
}

func (a *asker) ask(asked Asked, limit time.Duration) Heard {
	within, cancel := context.WithTimeout(context.Background(), limit+hangs)
	defer cancel()
	ctx := told{within, time.Now().Add(limit)}
	var heard Heard
	client, err := a.client(asked.Grpc)
	if err == nil {
		switch asked.Way {
		case "stream":
			err = stream(ctx, client, asked, &heard)
		case "submit":
			err = submit(ctx, client, asked, &heard)
		case "wait":
			err = wait(ctx, client, asked, &heard)
		default:
			err = unary(ctx, client, asked, &heard)
		}
	}
	if err != nil {
		heard.Why = err.Error()
		if said, ok := headrace.Explain(err); ok {
			heard.Why, heard.Reason = said.Code.String()+" "+said.Reason, said.Reason
			heard.Again = said.Code == codes.Unavailable || said.Code == codes.ResourceExhausted || said.Code == codes.DeadlineExceeded
		}
		heard.Again = heard.Again || errors.Is(err, errEarly)
	}
	return heard
}

// told is a context whose deadline is told, and not kept: it is done when the one inside is.
type told struct {
	context.Context
	deadline time.Time
}

func (t told) Deadline() (time.Time, bool) { return t.deadline, true }

func (a *asker) client(address string) (*headrace.Client, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	if known, ok := a.clients[address]; ok {
		return known, nil
	}
	made, err := headrace.Dial(address)
	if err == nil {
		a.clients[address] = made
	}
	return made, err
}

func params(asked Asked) (*v1.MessageParams, *v1.CallOptions) {
	content := &v1.Content{Content: &v1.Content_Text{Text: asked.Prompt}}
	said := &v1.MessageParams{
		Model: ptr(asksSome), MaxTokens: ptr(int64(tokens)),
		Messages: []*v1.InputMessage{{Role: ptr("user"), Content: content}},
	}
	return said, &v1.CallOptions{AnthropicVersion: version, IdempotencyKey: asked.Key}
}

func ptr[T any](value T) *T { return &value }

func unary(ctx context.Context, client *headrace.Client, asked Asked, heard *Heard) error {
	said, options := params(asked)
	reply, err := client.Messages.CreateMessage(ctx, &v1.CreateMessageRequest{Params: said, Options: options})
	if err == nil {
		heard.ID, heard.Text = reply.GetMessage().GetId(), headrace.Text(reply.GetMessage())
	}
	return err
}

func stream(ctx context.Context, client *headrace.Client, asked Asked, heard *Heard) error {
	said, options := params(asked)
	replies, err := client.Messages.StreamMessage(ctx, &v1.StreamMessageRequest{Params: said, Options: options})
	if err != nil {
		return err
	}
	for isWhole := false; ; {
		reply, err := replies.Recv()
		switch {
		case errors.Is(err, io.EOF) && isWhole:
			return nil
		case errors.Is(err, io.EOF):
			return errEarly
		case err != nil:
			return err
		}
		event := reply.GetEvent()
		if begun := event.GetMessageStart(); begun != nil {
			heard.ID = begun.GetMessage().GetId()
		}
		heard.Text += event.GetContentBlockDelta().GetDelta().GetTextDelta().GetText()
		isWhole = isWhole || event.GetMessageStop() != nil
	}
}

func submit(ctx context.Context, client *headrace.Client, asked Asked, heard *Heard) error {
	said, options := params(asked)
	reply, err := client.Messages.SubmitMessage(ctx, &v1.SubmitMessageRequest{Params: said, Options: options})
	if err == nil {
		heard.ID = reply.GetTicket().GetId()
	}
	return err
}

func wait(ctx context.Context, client *headrace.Client, asked Asked, heard *Heard) error {
	reply, err := client.Tickets.WaitTicket(ctx, &v1.WaitTicketRequest{Id: asked.Prompt})
	if err == nil {
		message := reply.GetTicket().GetMessage()
		heard.ID, heard.Text = message.GetId(), headrace.Text(message)
	}
	return err
}
