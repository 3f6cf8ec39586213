#!/bin/sh
# Generates headracev1 from ../../protos. The plugins are the versions that go.mod names; protoc is the one of `make dev`.
set -eu
cd "$(dirname "$0")"
protos=../../protos
mapping=""
for file in "$protos"/headrace/v1/*.proto; do
    mapping="$mapping --go_opt=Mheadrace/v1/$(basename "$file")=headrace.dev/client/headracev1"
    mapping="$mapping --go-grpc_opt=Mheadrace/v1/$(basename "$file")=headrace.dev/client/headracev1"
done
rm -f headracev1/*.pb.go
# shellcheck disable=SC2086  # the mapping is many words
../../.venv/bin/python -m grpc_tools.protoc -I"$protos" \
    --plugin=protoc-gen-go="$(go tool -n protoc-gen-go)" --plugin=protoc-gen-go-grpc="$(go tool -n protoc-gen-go-grpc)" \
    --go_out=. --go_opt=module=headrace.dev/client --go-grpc_out=. --go-grpc_opt=module=headrace.dev/client \
    $mapping "$protos"/headrace/v1/*.proto
