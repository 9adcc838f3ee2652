//! Looks at the host, and changes nothing on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fw_common::Hook;
use fw_common::tables::memory::Memory;

use super::boot::{NFTABLES, SAVED, SERVICES, UFW};
use super::seen::{Access, Dockerd, InForce, PolicyFile, Process, Seen};
use crate::datapath::{Directory, DirectoryError, Maps, attached_in, foreign_on};
use crate::desired::desired;
use crate::docker::DockerSnapshot;
use crate::handover::{Backstop, Iptables, Nft, nft_tables};
use crate::health::Ailment;
use crate::inventory::{Inventory, with_bridges};
use crate::netlink::{self, ContainerLink};
use crate::plan::State;
use crate::policy::Policy;
use crate::reconcile::{chain, monotonic_seconds};

/// Where to look.
pub struct Where<'a> {
    /// The policy file.
    pub policy: &'a Path,
    /// The directory of pins.
    pub bpffs: &'a Path,
    /// Tells of a process whether it is an fw, and whether it is halted.
    pub process: fn(u32) -> (bool, bool),
}

/// What Docker answered: what it has, and the links of its containers by process.
pub type Answer = (DockerSnapshot, BTreeMap<u32, Vec<ContainerLink>>);

/// Looks at everything. What cannot be looked at is named in [`Seen::unseen`].
pub fn look(at: &Where<'_>, docker: Result<Answer, String>) -> Seen {
    let mut seen = Seen { kernel: kernel(at.bpffs), ..Seen::default() };
    if !nix::unistd::geteuid().is_root() {
        seen.unseen.push("most of it, without root: run this with sudo".to_owned());
    }
    match netlink::snapshot() {
        Ok(host) => seen.host = host,
        Err(error) => seen.unseen.push(format!("devices and addresses: {}", chain(&error))),
    }
    let (snapshot, links) = match docker {
        Ok((snapshot, links)) => (Some(with_bridges(snapshot, &seen.host)), links),
        Err(error) => {
            seen.unseen.push(format!("Docker's networks and containers: {error}"));
            (None, BTreeMap::new())
        }
    };
    seen.dockerd = dockerd();
    seen.processes = snapshot.iter().flat_map(|docker| &docker.containers).filter_map(process).collect();
    let current = in_force(at, &mut seen);
    policy(at.policy, snapshot.as_ref(), &links, &current, &mut seen);
    seen.docker = snapshot;
    rules(&mut seen);
    match netlink::routing_rules() {
        Ok(rules) => seen.routing = rules,
        Err(error) => seen.unseen.push(format!("rules of policy routing: {}", chain(&error))),
    }
    match foreign_on(ours(&seen)) {
        Ok(programs) => seen.programs = programs,
        Err(error) => seen.unseen.push(error),
    }
    settings(&mut seen);
    files(&mut seen);
    seen
}

/// The devices on which programs of fw run or would run.
fn ours(seen: &Seen) -> Vec<&netlink::Link> {
    let wanted = seen.desired.iter().flat_map(|desired| &desired.state.hooks);
    let there = seen.in_force.iter().flat_map(|there| &there.hooks);
    let devices: BTreeSet<u32> = wanted.chain(there).map(|point| point.ifindex).collect();
    devices.iter().filter_map(|ifindex| seen.host.link(*ifindex)).collect()
}

fn kernel(bpffs: &Path) -> super::Kernel {
    let no_bpffs = match Directory::would_hold_pins(bpffs) {
        Err(error @ (DirectoryError::NotBpffs { .. } | DirectoryError::Unusable { .. })) => {
            Some(error.to_string())
        }
        Ok(()) | Err(_) => None,
    };
    super::Kernel {
        release: read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        no_bpffs,
    }
}

/// What is in force, and how the daemon fares.
fn in_force(at: &Where<'_>, seen: &mut Seen) -> State {
    let directory = match Directory::open(at.bpffs) {
        Ok(directory) => directory,
        Err(DirectoryError::Empty { .. }) => return State::default(),
        Err(error) => {
            seen.unseen.push(format!("what is in force: {error}"));
            seen.force_unseen = true;
            return State::default();
        }
    };
    let read = || -> Result<(InForce, State), crate::datapath::DatapathError> {
        let maps = Maps::open(directory.path())?;
        let (state, daemon) = (maps.read_around(&Memory::default())?, maps.daemon()?);
        let (is_fw, halted) = (at.process)(daemon.pid);
        let alive = directory.is_locked() && is_fw;
        let hooks = attached_in(directory.path(), &seen.host.links)?;
        let runs = hooks.into_iter().filter(|(point, (_, runs))| *runs && point.hook != Hook::UplinkXdp);
        let there = InForce {
            ailment: Ailment::of(&daemon, alive, halted, monotonic_seconds()),
            enforces: daemon.ready != 0 && state.tables.settings.observe == 0,
            nat: daemon.nat,
            hooks: runs.map(|(point, _)| point).collect(),
        };
        Ok((there, state))
    };
    match read() {
        Ok((there, state)) => {
            let state = State { hooks: there.hooks.clone(), ..state };
            seen.in_force = Some(there);
            state
        }
        Err(error) => {
            seen.unseen.push(format!("what is in force: {}", chain(&error)));
            seen.force_unseen = true;
            State::default()
        }
    }
}

/// The policy, and what it would put in force on this host.
fn policy(
    path: &Path,
    docker: Option<&DockerSnapshot>,
    links: &BTreeMap<u32, Vec<ContainerLink>>,
    current: &State,
    seen: &mut Seen,
) {
    let shown = path.display().to_string();
    let policy = match Policy::read(path) {
        Ok(policy) => policy,
        Err(_) if !path.exists() => {
            seen.file = PolicyFile::Absent { path: shown };
            // Which networks there are, an empty policy tells, too.
            seen.inventory = Inventory::new(docker, &seen.host, links, &[]);
            return;
        }
        Err(error) => {
            seen.file = PolicyFile::Invalid { path: shown, error: chain(&error) };
            seen.inventory = Inventory::new(docker, &seen.host, links, &[]);
            return;
        }
    };
    seen.inventory = Inventory::new(docker, &seen.host, links, &policy.static_networks);
    // Without Docker's answer everything of Docker's would be missing.
    let wanted = docker.map(|_| desired(&policy, &seen.inventory, current)).transpose();
    match wanted {
        Ok(wanted) => {
            seen.desired = wanted;
            // A device (/dev/null is an empty policy) is everybody's, and no way to write a policy.
            let found = fs::metadata(path).ok().filter(fs::Metadata::is_file);
            let access = found.map(|found| Access { owner: found.uid(), mode: found.mode() });
            let access = access.unwrap_or_default();
            seen.file = PolicyFile::Read { path: shown, policy: Box::new(policy), access };
        }
        Err(error) => seen.file = PolicyFile::Invalid { path: shown, error: error.to_string() },
    }
}

fn rules(seen: &mut Seen) {
    match Iptables::find() {
        Ok(iptables) => {
            for (place, text) in iptables.read_all() {
                match text {
                    Ok(text) => seen.rules.push((place, text)),
                    Err(error) => seen.unseen.push(format!("the rules of {place}: {}", chain(&error))),
                }
            }
        }
        Err(error) => seen.unseen.push(format!("iptables: {error}")),
    }
    let nft = Nft::find();
    match nft.as_ref().map(Nft::ruleset) {
        Some(Ok(text)) => seen.tables = nft_tables(&text),
        Some(Err(error)) => seen.unseen.push(format!("nftables: {}", chain(&error))),
        None => seen.no_nft = true,
    }
    let apart = seen.desired.as_ref().map(|desired| &desired.apart).filter(|apart| !apart.is_empty());
    let (Some(apart), Some(marks)) = (apart, seen.marks()) else { return };
    // The kernel is asked, and nothing is written.
    seen.no_backstop = match nft {
        None => Some("`nft` is not installed".to_owned()),
        Some(nft) => {
            let asked = Backstop::apart(marks, apart).and_then(|wanted| nft.plan(&wanted));
            asked.err().map(|error| chain(&error))
        }
    };
}

/// How the dockerd of this network namespace was started.
fn dockerd() -> Option<Dockerd> {
    let here = fs::read_link("/proc/self/ns/net").ok()?;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let of = |file: &str| PathBuf::from(format!("/proc/{pid}/{file}"));
        let is_dockerd = fs::read_to_string(of("comm")).is_ok_and(|name| name.trim_end() == "dockerd");
        if !is_dockerd || fs::read_link(of("ns/net")).ok().as_ref() != Some(&here) {
            continue;
        }
        let line = fs::read(of("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let arguments = line.split('\0').skip(1).filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let mut found = Dockerd { pid, arguments, file: String::new(), config: None };
        let named = found.given("config-file").pop();
        found.file = named.unwrap_or_else(|| "/etc/docker/daemon.json".to_owned());
        let text = fs::read_to_string(format!("/proc/{pid}/root{}", found.file));
        found.config = text.ok().and_then(|text| serde_json::from_str(&text).ok());
        return Some(found);
    }
    None
}

/// A container's first process.
fn process(container: &crate::docker::DockerContainer) -> Option<Process> {
    let of = |file: &str| PathBuf::from(format!("/proc/{}/{file}", container.pid));
    let status = fs::read_to_string(of("status")).ok()?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let capabilities = u64::from_str_radix(capabilities.trim(), 16).ok()?;
    let same = |name: &str| {
        let (theirs, ours) =
            (fs::read_link(of(&format!("ns/{name}"))), fs::read_link(format!("/proc/self/ns/{name}")));
        theirs.ok().zip(ours.ok()).is_some_and(|(theirs, ours)| theirs == ours)
    };
    Some(Process {
        container: container.name.clone(),
        capabilities,
        host_user: same("user"),
        host_network: same("net"),
    })
}

/// Values of `/proc/sys` of the network namespace, those of devices for all but ports.
fn settings(seen: &mut Seen) {
    const WHOLE: [&str; 10] = [
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/conf/all/route_localnet",
        "net/ipv4/conf/all/rp_filter",
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-ip6tables",
        "net/bridge/bridge-nf-call-arptables",
        "net/netfilter/nf_conntrack_count",
        "net/netfilter/nf_conntrack_max",
        "net/core/bpf_jit_enable",
    ];
    const OF_DEVICE: [&str; 3] =
        ["ipv4/conf/{}/route_localnet", "ipv4/conf/{}/rp_filter", "ipv6/conf/{}/accept_ra"];
    let mut paths: Vec<String> = WHOLE.map(str::to_owned).into();
    paths.push("kernel/unprivileged_bpf_disabled".to_owned());
    for link in seen.host.links.iter().filter(|link| link.master.is_none() && !link.loopback) {
        paths.extend(OF_DEVICE.iter().map(|path| format!("net/{}", path.replace("{}", &link.name))));
    }
    for path in paths {
        if let Some(value) = read(&format!("/proc/sys/{path}")) {
            seen.sysctls.insert(path, value);
        }
    }
}

/// Files that others load rules from, and which services are started at boot.
fn files(seen: &mut Seen) {
    let paths = SAVED.iter().map(|(path, _)| *path).chain(NFTABLES).chain([UFW]);
    for path in paths {
        match fs::read(path) {
            Ok(text) => _ = seen.files.insert(path, String::from_utf8_lossy(&text).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // Of a directory in the way (ENOTDIR), too, nothing is loaded.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {}
            Err(error) => seen.unseen.push(format!("{path}: {error}")),
        }
    }
    for folder in
        ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/system"]
    {
        let folder = Path::new(folder);
        let units = SERVICES.iter().filter(|name| folder.join(name).exists());
        seen.units.extend(units.map(|name| (*name).to_owned()));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".wants") || name.ends_with(".requires") {
                // A link that leads nowhere names a service all the same: symlink_metadata sees it.
                let there = |service: &&&str| fs::symlink_metadata(entry.path().join(service)).is_ok();
                seen.enabled.extend(SERVICES.iter().filter(there).map(|name| (*name).to_owned()));
            }
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}
