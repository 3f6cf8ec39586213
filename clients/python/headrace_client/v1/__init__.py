"""The gRPC interface, generated from `protos/headrace/v1/` by `make protos`. Only this file is written by hand."""
