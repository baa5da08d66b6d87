//! CAs, certificates, join tokens, kubeconfig files.
