//! Small things every layer needs: tasks and shutdown, backoff, clock, files, gRPC over sockets, headers of a hop,
//! nftables, the kernel's settings, the machine's address, order, words, word to the service manager.
//!
//! **Invariant:** nothing here knows of Kubernetes.

pub mod address;
pub mod anytls;
pub mod backoff;
pub mod clock;
pub mod duplex;
pub mod families;
pub mod file_watch;
pub mod files;
pub mod grpc;
pub mod hops;
pub mod nft;
pub mod notify;
pub mod order;
pub mod percent;
pub mod procs;
pub mod prometheus;
pub mod random;
pub mod sys;
pub mod sysctl;
pub mod tasks;
pub mod telemetry;
pub mod ttl;
pub mod words;
