//! JSON, YAML and protobuf bodies.
