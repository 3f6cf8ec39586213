"""The doors: gRPC (grpc_*, translate, status) and HTTP (http_*). They translate, and leave everything else to the flow."""
