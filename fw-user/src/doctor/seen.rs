//! What was looked at on this host, as plain values: the checks read nothing else.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::tables::nat_health;

use crate::datapath::Foreign;
use crate::desired::Desired;
use crate::docker::DockerSnapshot;
use crate::handover::{Marks, NftTable, Place};
use crate::health::Ailment;
use crate::inventory::Inventory;
use crate::netlink::{HostSnapshot, RoutingRule};
use crate::plan::HookPoint;
use crate::policy::Policy;

/// Everything that was looked at. What could not be is empty, and named in `unseen`.
#[derive(Debug, Default)]
pub struct Seen {
    /// Rule sets of iptables, as iptables-save prints them.
    pub rules: Vec<(Place, String)>,
    /// Tables of nftables that are neither fw's nor those of iptables.
    pub tables: Vec<NftTable>,
    /// Rules of policy routing that ask for a mark.
    pub routing: Vec<RoutingRule>,
    /// Programs of others on our devices.
    pub programs: Vec<Foreign>,
    /// Links, addresses, default routes.
    pub host: HostSnapshot,
    /// Docker's networks and containers; `None` if Docker does not answer.
    pub docker: Option<DockerSnapshot>,
    /// Docker's and the kernel's view joined.
    pub inventory: Inventory,
    /// How dockerd was started; `None` if no dockerd of this network namespace was found.
    pub dockerd: Option<Dockerd>,
    /// Containers' processes.
    pub processes: Vec<Process>,
    /// The policy file.
    pub file: PolicyFile,
    /// What the policy would put in force.
    pub desired: Option<Desired>,
    /// What is in force; `None` if nothing is, or if it could not be looked at.
    pub in_force: Option<InForce>,
    /// What is in force could not be looked at.
    pub force_unseen: bool,
    /// Values of `/proc/sys`, by the path below it; what this kernel lacks is absent.
    pub sysctls: BTreeMap<String, String>,
    /// Contents of files that others load rules from, by path; those that exist.
    pub files: BTreeMap<&'static str, String>,
    /// Names of systemd's services that are started at boot.
    pub enabled: BTreeSet<String>,
    /// Names of systemd's services whose unit files are there.
    pub units: BTreeSet<String>,
    /// The kernel.
    pub kernel: Kernel,
    /// Why the nftables table between neighbours cannot be made, if it is wanted and cannot.
    pub no_backstop: Option<String>,
    /// There is no `nft` to ask for tables of nftables.
    pub no_nft: bool,
    /// What could not be looked at, each with why.
    pub unseen: Vec<String>,
}

impl Seen {
    /// Our field of the mark, by the policy.
    pub fn marks(&self) -> Option<Marks> {
        let bit = self.policy().map_or(Policy::default().marks.bit, |policy| policy.marks.bit);
        Marks::new(bit).ok()
    }

    /// The policy, if its file is there and valid.
    pub fn policy(&self) -> Option<&Policy> {
        match &self.file {
            PolicyFile::Read { policy, .. } => Some(policy),
            PolicyFile::Absent { .. } | PolicyFile::Invalid { .. } => None,
        }
    }

    /// A value of `/proc/sys` as a number.
    pub fn sysctl(&self, path: &str) -> Option<u64> {
        self.sysctls.get(path)?.trim().parse().ok()
    }

    /// Whether fw filters now: programs and tables are there, and they do not only observe.
    pub fn enforces(&self) -> bool {
        self.in_force.as_ref().is_some_and(|there| there.enforces)
    }

    /// Whether the host forwards packets of a family.
    pub fn forwards(&self, ipv6: bool) -> bool {
        let path = if ipv6 { "net/ipv6/conf/all/forwarding" } else { "net/ipv4/ip_forward" };
        self.sysctl(path) == Some(1)
    }

    /// How NAT stands, as the daemon has told.
    pub fn nat(&self) -> u8 {
        self.in_force.as_ref().map_or(nat_health::NOT_OURS, |there| there.nat)
    }
}

/// The policy file.
#[derive(Debug)]
pub enum PolicyFile {
    /// There is none.
    Absent {
        /// Where it was looked for.
        path: String,
    },
    /// It cannot be used.
    Invalid {
        /// Where it is.
        path: String,
        /// What is wrong.
        error: String,
    },
    /// It is valid.
    Read {
        /// Where it is.
        path: String,
        /// What it says.
        policy: Box<Policy>,
        /// Who owns it, and its mode.
        access: Access,
    },
}

impl Default for PolicyFile {
    fn default() -> Self {
        Self::Absent { path: String::new() }
    }
}

/// Who may write a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Number of the owner.
    pub owner: u32,
    /// Permission bits.
    pub mode: u32,
}

/// How dockerd was started: arguments, and the file that they name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dockerd {
    /// Its process.
    pub pid: u32,
    /// Its arguments, without its own name.
    pub arguments: Vec<String>,
    /// Where its configuration file is.
    pub file: String,
    /// The file's content, if there is one.
    pub config: Option<serde_json::Value>,
}

/// The first process of a container, as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The container's name.
    pub container: String,
    /// Its effective capabilities, by bit.
    pub capabilities: u64,
    /// Its capabilities are those of the host: it is in the user namespace that fw runs in.
    pub host_user: bool,
    /// It is in the network namespace that fw runs in.
    pub host_network: bool,
}

/// What is in force.
#[derive(Debug, Default)]
pub struct InForce {
    /// What is wrong with the daemon.
    pub ailment: Option<Ailment>,
    /// It drops, and does not only observe.
    pub enforces: bool,
    /// How NAT stands.
    pub nat: u8,
    /// Hooks whose programs run.
    pub hooks: BTreeSet<HookPoint>,
}

/// What of the kernel matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Its release as it names itself.
    pub release: String,
    /// It has type information (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// What stands at the place of pins, if no directory on a bpffs can be made there.
    pub no_bpffs: Option<String>,
}

impl Kernel {
    /// Major and minor number.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}
