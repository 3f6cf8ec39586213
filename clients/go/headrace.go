// Package headrace calls a Headrace daemon over gRPC, on its unix socket or at host:port.
//
// [NewTransport] carries any HTTP request of the Anthropic API, so that the official SDKs work unchanged:
//
//	transport, err := headrace.NewTransport("unix:/run/headrace/headrace.sock")
//	client := anthropic.NewClient(option.WithHTTPClient(&http.Client{Transport: transport}), option.WithAPIKey("unused"))
//
// [Dial] gives the typed services, which say more: where an answer came from, tickets, the cache, what was used.
package headrace

import (
	"strings"

	"google.golang.org/grpc"

	v1 "headrace.dev/client/headracev1"
)

// Client has a stub for each service of a daemon, all on one connection.
type Client struct {
	API          v1.ApiServiceClient
	Messages     v1.MessagesServiceClient
	Tickets      v1.TicketsServiceClient
	Cache        v1.CacheServiceClient
	Usage        v1.UsageServiceClient
	Budgets      v1.BudgetsServiceClient
	Models       v1.ModelsServiceClient
	Batches      v1.MessageBatchesServiceClient
	Organization v1.OrganizationServiceClient
	Chat         v1.ChatServiceClient

	conn *grpc.ClientConn
}

// Dial returns a client. It connects with the first call; an address that makes no sense is an error at once.
func Dial(address string, options ...Option) (*Client, error) {
	conn, err := read(options).connect(address)
	if err != nil {
		return nil, err
	}
	return &Client{
		API:          v1.NewApiServiceClient(conn),
		Messages:     v1.NewMessagesServiceClient(conn),
		Tickets:      v1.NewTicketsServiceClient(conn),
		Cache:        v1.NewCacheServiceClient(conn),
		Usage:        v1.NewUsageServiceClient(conn),
		Budgets:      v1.NewBudgetsServiceClient(conn),
		Models:       v1.NewModelsServiceClient(conn),
		Batches:      v1.NewMessageBatchesServiceClient(conn),
		Organization: v1.NewOrganizationServiceClient(conn),
		Chat:         v1.NewChatServiceClient(conn),
		conn:         conn,
	}, nil
}

// Close ends the connection; calls that run end with it.
func (c *Client) Close() error { return c.conn.Close() }

// Text returns what a message says in words: its text blocks, one after the other.
func Text(message *v1.Message) string {
	var said strings.Builder
	for _, block := range message.GetContent() {
		said.WriteString(block.GetText().GetText())
	}
	return said.String()
}
