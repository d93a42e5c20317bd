//! The default seccomp filter, assembled for the node's ABI and the 32-bit one beside it.
//!
//! An allow list like that of other engines. A call that is known but not allowed answers EPERM;
//! one that is newer than the list, and clone3 (whose flags no filter can see), answer ENOSYS, so
//! that C libraries fall back.

mod table;

use table::Abi;

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const EPERM: u32 = 0x0005_0000 | 1;
const ENOSYS: u32 = 0x0005_0000 | 38;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// x32 calls have this bit; no image of a supported platform uses them.
const X32: u32 = 0x4000_0000;
/// CLONE_NEW* but for the cgroup namespace's sibling bits: what clone may not make.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
const AF_VSOCK: u32 = 40;
/// PER_LINUX, PER_LINUX32, UNAME26, both, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];
const CAP_SYS_ADMIN: u8 = 21;

/// A classic BPF program, 8 bytes an instruction, for processes that hold `capabilities`.
pub fn default_filter(capabilities: u64) -> Vec<u8> {
    if cfg!(target_arch = "x86_64") {
        filter(&[&table::X86_64, &table::I386], capabilities)
    } else if cfg!(target_arch = "aarch64") {
        filter(&[&table::AARCH64, &table::ARM], capabilities)
    } else {
        filter(&[&table::ARM], capabilities)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
}

fn instruction(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value }
}

fn filter(abis: &[&Abi], capabilities: u64) -> Vec<u8> {
    let mut program = vec![instruction(LOAD, ARCH)];
    for abi in abis {
        let block = block(abi, capabilities);
        // Past this block when the call came by another ABI. A block is longer than a conditional
        // jump reaches, so it hops over an unconditional one.
        program.push(Instruction { jump_true: 1, ..instruction(JUMP_EQUAL, abi.arch) });
        program.push(instruction(0x05, block.len() as u32));
        program.extend(block);
    }
    program.push(instruction(RETURN, KILL));
    let raw = |i: &Instruction| {
        let [a, b] = i.code.to_ne_bytes();
        let [c, d, e, f] = i.value.to_ne_bytes();
        [a, b, i.jump_true, i.jump_false, c, d, e, f]
    };
    program.iter().flat_map(raw).collect()
}

fn block(abi: &Abi, capabilities: u64) -> Vec<Instruction> {
    let holds = |capability: u8| capabilities >> capability & 1 == 1;
    let mut out = vec![instruction(LOAD, NUMBER)];
    let unless = |code, value| Instruction { jump_false: 1, ..instruction(code, value) };
    let mut verdict = |code, value, verdict: u32| out.extend([unless(code, value), instruction(RETURN, verdict)]);
    if abi.arch == table::X86_64.arch {
        verdict(JUMP_GREATER_EQUAL, X32, ENOSYS);
    }
    for private in abi.private {
        verdict(JUMP_EQUAL, *private, ALLOW);
    }
    verdict(JUMP_GREATER, table::LAST_KNOWN, ENOSYS);
    if !holds(CAP_SYS_ADMIN) {
        verdict(JUMP_EQUAL, table::CLONE3, ENOSYS);
    }
    let mut argument = |number: u32, tests: &[Instruction]| {
        out.push(Instruction { jump_false: tests.len() as u8 + 1, ..instruction(JUMP_EQUAL, number) });
        out.push(instruction(LOAD, FIRST_ARGUMENT));
        out.extend_from_slice(tests);
    };
    if !holds(CAP_SYS_ADMIN) {
        let masked = Instruction { jump_false: 1, ..instruction(JUMP_BITS, CLONE_NAMESPACES) };
        argument(abi.clone, &[masked, instruction(RETURN, EPERM), instruction(RETURN, ALLOW)]);
    }
    let mut persons: Vec<_> = PERSONALITIES
        .iter()
        .enumerate()
        .map(|(i, p)| Instruction { jump_true: (PERSONALITIES.len() - i) as u8, ..instruction(JUMP_EQUAL, *p) })
        .collect();
    persons.extend([instruction(RETURN, EPERM), instruction(RETURN, ALLOW)]);
    argument(abi.personality, &persons);
    if abi.socket != 0 {
        let vsock = Instruction { jump_false: 1, ..instruction(JUMP_EQUAL, AF_VSOCK) };
        argument(abi.socket, &[vsock, instruction(RETURN, EPERM), instruction(RETURN, ALLOW)]);
    }
    out.extend(search(&steps(abi, &holds)));
    out
}

/// Where the verdict changes: (first number, allowed), ascending, the first at 0.
fn steps(abi: &Abi, holds: &impl Fn(u8) -> bool) -> Vec<(u32, bool)> {
    let mut allowed = vec![false; table::LAST_KNOWN as usize + 1];
    let calls = abi.allow.iter().flat_map(|(first, last)| *first..=*last);
    let gated = abi.gated.iter().filter(|(capability, _)| holds(*capability)).map(|(_, call)| *call);
    let admin = holds(CAP_SYS_ADMIN).then_some(abi.clone as u16);
    for call in calls.chain(gated).chain(admin) {
        allowed[call as usize] = true;
    }
    let mut steps: Vec<(u32, bool)> = Vec::new();
    for (number, allow) in allowed.into_iter().enumerate() {
        if steps.last().is_none_or(|(_, last)| *last != allow) {
            steps.push((number as u32, allow));
        }
    }
    steps
}

/// A binary search over the steps. The kernel runs the filter for every number when it is
/// installed (to learn which calls it always allows), so its depth is a container's start time.
fn search(steps: &[(u32, bool)]) -> Vec<Instruction> {
    if let [(_, allow)] = steps {
        return vec![instruction(RETURN, if *allow { ALLOW } else { EPERM })];
    }
    let (low, high) = steps.split_at(steps.len() / 2);
    let (left, right) = (search(low), search(high));
    let jump_true = u8::try_from(left.len()).expect("half of a table's steps is within a jump's reach");
    let mut out = vec![Instruction { jump_true, ..instruction(JUMP_GREATER_EQUAL, high[0].0) }];
    out.extend(left);
    out.extend(right);
    out
}

#[cfg(test)]
mod tests;
