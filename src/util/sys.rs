//! The only module that may say `unsafe`: system calls that no safe wrapper covers.
//!
//! **Invariant:** every `unsafe` block states why it is sound.
