//! End-to-end tests: real processes, real containerd. Need root.

mod runtime;
