use super::*;

/// Runs the filter as the kernel would.
fn run(program: &[u8], arch: u32, number: u32, argument: u32) -> u32 {
    let code = |i: usize| {
        let raw: [u8; 8] = program[i * 8..i * 8 + 8].try_into().unwrap();
        let word = |a: usize| u32::from_ne_bytes(raw[a..a + 4].try_into().unwrap());
        (u16::from_ne_bytes([raw[0], raw[1]]), raw[2] as usize, raw[3] as usize, word(4))
    };
    let (mut at, mut a) = (0, 0);
    loop {
        let (op, jump_true, jump_false, value) = code(at);
        at += 1;
        let condition = match op {
            LOAD => {
                a = match value {
                    NUMBER => number,
                    ARCH => arch,
                    FIRST_ARGUMENT => argument,
                    other => panic!("load of {other}"),
                };
                continue;
            }
            RETURN => return value,
            0x05 => {
                at += value as usize;
                continue;
            }
            JUMP_EQUAL => a == value,
            JUMP_GREATER => a > value,
            JUMP_GREATER_EQUAL => a >= value,
            JUMP_BITS => a & value != 0,
            other => panic!("instruction {other:#x}"),
        };
        at += if condition { jump_true } else { jump_false };
    }
}

#[test]
fn verdicts_are_those_of_the_usual_profile() {
    let plain = filter(&[&table::X86_64, &table::I386], 0);
    let admin = filter(&[&table::X86_64, &table::I386], 1 << 21);
    let x = table::X86_64.arch;
    let check = |program: &[u8], number: i64, argument: u32, expect: u32| {
        assert_eq!(run(program, x, number as u32, argument), expect, "call {number} with {argument:#x}");
    };
    check(&plain, 0, 0, ALLOW); // read
    check(&plain, 59, 0, ALLOW); // execve
    check(&plain, 165, 0, EPERM); // mount
    check(&admin, 165, 0, ALLOW);
    check(&plain, 272, 0, EPERM); // unshare
    check(&plain, 435, 0, ENOSYS); // clone3
    check(&plain, 56, 0x11, ALLOW); // clone
    check(&plain, 56, 0x1000_0000 | 0x11, EPERM); // clone(CLONE_NEWUSER)
    check(&admin, 56, 0x1000_0000, ALLOW);
    check(&plain, 41, 2, ALLOW); // socket(AF_INET)
    check(&plain, 41, 40, EPERM); // socket(AF_VSOCK)
    check(&plain, 135, 0, ALLOW); // personality
    check(&plain, 135, 0x40_0000, EPERM);
    check(&plain, 321, 0, EPERM); // bpf
    check(&plain, 425, 0, EPERM); // io_uring_setup
    check(&plain, 246, 0, EPERM); // kexec_load
    check(&plain, 9999, 0, ENOSYS);
    check(&plain, 0x4000_0000, 0, ENOSYS); // x32
    assert_eq!(run(&plain, table::I386.arch, 403, 0), ALLOW, "clock_gettime64 of a 32-bit program");
    assert_eq!(run(&plain, 0x1234, 0, 0), KILL);
    let arm = filter(&[&table::AARCH64, &table::ARM], 0);
    assert_eq!(run(&arm, table::ARM.arch, 0xf0005, 0), ALLOW, "arm set_tls");
    assert_eq!(run(&arm, table::ARM.arch, 403, 0), ALLOW, "clock_gettime64");
    assert_eq!(run(&arm, table::AARCH64.arch, 40, 0), EPERM, "mount");
    assert_eq!(run(&arm, table::AARCH64.arch, 63, 0), ALLOW, "read");
}

#[test]
fn every_number_has_the_tables_verdict() {
    for abi in [&table::X86_64, &table::I386, &table::AARCH64, &table::ARM] {
        for capabilities in [0, 0xa804_25fb, u64::MAX] {
            let program = filter(&[abi], capabilities);
            assert!(program.len() / 8 <= 4096);
            for number in 0..=table::LAST_KNOWN {
                let listed = abi.allow.iter().any(|(a, b)| (*a as u32..=*b as u32).contains(&number));
                let gated = abi.gated.iter().any(|(c, n)| *n as u32 == number && capabilities >> c & 1 == 1);
                if [abi.clone, abi.personality, abi.socket, table::CLONE3].contains(&number) {
                    continue;
                }
                let expect = if listed || gated { ALLOW } else { EPERM };
                assert_eq!(run(&program, abi.arch, number, 0), expect, "{:#x} {number}", abi.arch);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_table_agrees_with_the_c_library() {
    let allowed = |n: i64| table::X86_64.allow.iter().any(|(a, b)| (*a as i64..=*b as i64).contains(&n));
    assert!(allowed(libc::SYS_openat) && allowed(libc::SYS_futex) && allowed(libc::SYS_statx));
    assert!(!allowed(libc::SYS_mount) && !allowed(libc::SYS_keyctl) && !allowed(libc::SYS_init_module));
    assert_eq!(table::X86_64.clone as i64, libc::SYS_clone);
    assert_eq!(table::X86_64.personality as i64, libc::SYS_personality);
}
