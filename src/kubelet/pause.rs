//! The pause image: a program of some twenty instructions that holds a sandbox's namespaces, made here byte by byte so
//! that no registry and no compiler is needed.
//!
//! The program ignores SIGCHLD, whereby the kernel reaps the orphans of a shared pid namespace; blocks SIGTERM and
//! SIGINT, waits for either, and exits with 0. Waiting instead of handling matters: the first process of a pid namespace
//! gets no signal it has neither handled nor blocked, and a handler would need a restorer.

use std::io;

use super::images::{Archive, Entry};

/// Name of the image. The domain resolves to this machine, so that no registry is ever asked for it by accident.
pub const IMAGE: &str = "localhost/orch/pause:1";

/// Where the program is mapped.
const BASE: u64 = 0x40_0000;
/// Size of the ELF header and one program header; the code follows.
const HEADERS: u64 = 64 + 56;
/// SIGINT (2) and SIGTERM (15) as a signal set.
const SIGNALS: u64 = 1 << 1 | 1 << 14;
/// `struct kernel_sigaction` with `SIG_IGN` (1) and no flags; zeroes follow, in either architecture's layout.
const IGNORE: [u64; 4] = [1, 0, 0, 0];

/// x86-64. System calls: 14 rt_sigprocmask, 13 rt_sigaction, 128 rt_sigtimedwait, 231 exit_group. The data follows the
/// code directly: the signal set at 0x50, the action at 0x58.
const X86_64: &[u8] = &[
    0x31, 0xff, // 00: xor edi, edi            SIG_BLOCK
    0x48, 0x8d, 0x35, 0x47, 0x00, 0x00, 0x00, // 02: lea rsi, [rip+0x47]      signal set
    0x31, 0xd2, // 09: xor edx, edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // 0b: mov r10d, 8               size of the set
    0xb8, 0x0e, 0x00, 0x00, 0x00, // 11: mov eax, 14
    0x0f, 0x05, // 16: syscall
    0xbf, 0x11, 0x00, 0x00, 0x00, // 18: mov edi, 17               SIGCHLD
    0x48, 0x8d, 0x35, 0x34, 0x00, 0x00, 0x00, // 1d: lea rsi, [rip+0x34]      action
    0xb8, 0x0d, 0x00, 0x00, 0x00, // 24: mov eax, 13
    0x0f, 0x05, // 29: syscall
    0x48, 0x8d, 0x3d, 0x1e, 0x00, 0x00, 0x00, // 2b: lea rdi, [rip+0x1e]      wait: signal set
    0x31, 0xf6, // 32: xor esi, esi
    0x31, 0xd2, // 34: xor edx, edx              no time limit
    0xb8, 0x80, 0x00, 0x00, 0x00, // 36: mov eax, 128
    0x0f, 0x05, // 3b: syscall
    0x85, 0xc0, // 3d: test eax, eax
    0x78, 0xea, // 3f: js wait                   interrupted (SIGSTOP, SIGCONT)
    0x31, 0xff, // 41: xor edi, edi
    0xb8, 0xe7, 0x00, 0x00, 0x00, // 43: mov eax, 231
    0x0f, 0x05, // 48: syscall
    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // 4a: nop, to align the data
];

/// `movz xD, #value`
const fn movz(register: u32, value: u32) -> u32 {
    0xd280_0000 | value << 5 | register
}

/// `adr xD, #offset` for offsets of at most a page, counted from this instruction.
const fn adr(register: u32, offset: u32) -> u32 {
    0x1000_0000 | (offset & 3) << 29 | (offset >> 2) << 5 | register
}

/// `svc #0`
const SVC: u32 = 0xd400_0001;
/// `tbnz x0, #63, -24`: back to `wait` when the result is negative.
const TBNZ_WAIT: u32 = 0xb7f8_0000 | ((-6_i32 as u32) & 0x3fff) << 5;

/// aarch64. System calls: 135 rt_sigprocmask, 134 rt_sigaction, 137 rt_sigtimedwait, 94 exit_group. The data follows:
/// the signal set at 0x58, the action at 0x60.
const AARCH64: &[u32] = &[
    movz(0, 0),          // 00: SIG_BLOCK
    adr(1, 0x58 - 0x04), // 04: signal set
    movz(2, 0),          // 08
    movz(3, 8),          // 0c: size of the set
    movz(8, 135),        // 10
    SVC,                 // 14
    movz(0, 17),         // 18: SIGCHLD
    adr(1, 0x60 - 0x1c), // 1c: action
    movz(8, 134),        // 20
    SVC,                 // 24
    adr(0, 0x58 - 0x28), // 28: wait: signal set
    movz(1, 0),          // 2c
    movz(2, 0),          // 30: no time limit
    movz(3, 8),          // 34
    movz(8, 137),        // 38
    SVC,                 // 3c
    TBNZ_WAIT,           // 40: interrupted
    movz(0, 0),          // 44
    movz(8, 94),         // 48
    SVC,                 // 4c
    0xd503_201f,         // 50: nop, to align the data
    0xd503_201f,         // 54: nop
];

/// The program for an architecture, in Go's names; none for one we have no code for.
pub fn program(architecture: &str) -> Option<Vec<u8>> {
    let (machine, code) = match architecture {
        "amd64" => (62, X86_64.to_vec()),
        "arm64" => (183, AARCH64.iter().flat_map(|i| i.to_le_bytes()).collect()),
        _ => return None,
    };
    let data = std::iter::once(SIGNALS).chain(IGNORE).flat_map(u64::to_le_bytes);
    let code: Vec<u8> = code.into_iter().chain(data).collect();
    Some(elf(machine, &code))
}

/// A static executable of one segment that is read and run, never written.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADERS as usize + code.len());
    // Identification: 64 bits, little endian, version 1, System V.
    out.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (executable, version) = (2_u16, 1_u32);
    out.extend(executable.to_le_bytes());
    out.extend(machine.to_le_bytes());
    out.extend(version.to_le_bytes());
    // Entry, program headers right behind this header, no section headers.
    [BASE + HEADERS, 64, 0].iter().for_each(|v| out.extend(v.to_le_bytes()));
    let flags = 0_u32;
    out.extend(flags.to_le_bytes());
    // Sizes and counts: this header, program headers, section headers.
    [64_u16, 56, 1, 0, 0, 0].iter().for_each(|v| out.extend(v.to_le_bytes()));
    let (load, read_execute) = (1_u32, 5_u32);
    out.extend(load.to_le_bytes());
    out.extend(read_execute.to_le_bytes());
    let size = HEADERS + code.len() as u64;
    // Offset, virtual and physical address, size in the file and in memory, alignment.
    [0, BASE, BASE, size, size, 0x1_0000].iter().for_each(|v| out.extend(v.to_le_bytes()));
    out.extend(code);
    out
}

/// The image for this machine as an OCI archive.
pub fn archive() -> io::Result<Vec<u8>> {
    let architecture = super::images::architecture();
    let program = program(architecture)
        .ok_or_else(|| io::Error::other(format!("no pause program for {architecture}; name one with --pause-image")))?;
    let archive = Archive {
        name: IMAGE.to_owned(),
        entrypoint: vec!["/pause".to_owned()],
        user: "65535:65535".to_owned(),
        ..Archive::default()
    };
    archive.build(&[Entry::file("pause", 0o755, program)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    use test_case::test_case;

    #[test]
    fn data_lies_where_the_code_looks_for_it() {
        assert_eq!(X86_64.len(), 0x50);
        assert_eq!(AARCH64.len() * 4, 0x58);
    }

    #[test_case(Signal::SIGTERM)]
    #[test_case(Signal::SIGINT)]
    fn runs_until_a_signal_asks_it_to_end(signal: Signal) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        std::fs::write(&path, program(crate::kubelet::images::architecture()).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        // SIGCHLD is ignored after the other two were blocked. (While it waits the kernel shows those as not blocked.)
        let is_waiting = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let hex = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).unwrap().trim();
            u64::from_str_radix(hex, 16).unwrap() & 1 << 16 != 0
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !is_waiting() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(std::time::Instant::now() < end, "it does not wait for signals");
            std::thread::yield_now();
        }
        kill(pid, signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(0), None));
    }

    /// Encodings of the same instructions by an assembler nobody here wrote (LLVM's).
    #[test]
    fn aarch64_encodings() {
        assert_eq!(movz(8, 135), 0xd280_10e8);
        assert_eq!(adr(1, 0x54), 0x1000_02a1);
        assert_eq!(TBNZ_WAIT, 0xb7ff_ff40);
    }
}
