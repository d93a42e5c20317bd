//! Coracle in virtual machines: kernels, control groups and disks that this host does not have.
//!
//! `scripts/test.sh` prepares what they boot with (`scripts/vm.sh`) and runs them; QEMU emulates, so
//! they need neither KVM nor anything of the host's kernel. What fails shows the machine's console.

mod board;
mod disk;
mod host;
mod machine;
mod power;
mod unified;

use std::time::Duration;

/// How long anything may take in an emulated machine on a slow, busy host.
const PATIENCE: Duration = Duration::from_secs(300);
