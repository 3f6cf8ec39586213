#!/bin/sh
# Generates headracev1 from ../../protos, whose go_package says where it belongs. The plugins are the versions that go.mod names;
# protoc is the one of `make dev`.
set -eu
cd "$(dirname "$0")"
protos=../../protos
rm -f headracev1/*.pb.go
../../.venv/bin/python -m grpc_tools.protoc -I"$protos" \
    --plugin=protoc-gen-go="$(go tool -n protoc-gen-go)" --plugin=protoc-gen-go-grpc="$(go tool -n protoc-gen-go-grpc)" \
    --go_out=. --go_opt=module=headrace.dev/client --go-grpc_out=. --go-grpc_opt=module=headrace.dev/client \
    "$protos"/headrace/v1/*.proto
