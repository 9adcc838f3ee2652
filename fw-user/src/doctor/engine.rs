//! Docker: how its daemon was started, and containers that go past the policy.

use ipnet::IpNet;

use super::seen::{Dockerd, Process};
use super::{Finding, Seen, listed};
use crate::handover::Native;
use crate::health;
use crate::policy::NatOwner;

impl Dockerd {
    /// A switch, by its name in arguments and file; `None` if nobody has set it. Arguments and file never name the same.
    pub fn switch(&self, name: &str) -> Option<bool> {
        let of_arguments = self.values(name).next_back().map(|value| value != "false");
        of_arguments.or_else(|| self.config.as_ref()?.get(name)?.as_bool())
    }

    /// What an option was given, wherever.
    pub fn given(&self, name: &str) -> Vec<String> {
        let key = if name == "host" { "hosts" } else { name };
        let config = self.config.as_ref().and_then(|config| config.get(key));
        let of_file = match config {
            Some(serde_json::Value::String(text)) => vec![text.clone()],
            Some(serde_json::Value::Array(list)) => {
                list.iter().filter_map(|it| Some(it.as_str()?.to_owned())).collect()
            }
            _ => Vec::new(),
        };
        self.values(name).map(str::to_owned).chain(of_file).collect()
    }

    /// `--name=value`, `--name value`; a switch alone is "true".
    fn values<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        let long = format!("--{name}");
        self.arguments.iter().enumerate().filter_map(move |(at, argument)| {
            let short = name == "host" && argument == "-H";
            if *argument == long || short {
                let next =
                    self.arguments.get(at + 1).map(String::as_str).filter(|next| !next.starts_with('-'));
                return Some(next.unwrap_or("true"));
            }
            argument.strip_prefix(&long)?.strip_prefix('=')
        })
    }
}

pub(super) fn examine(seen: &Seen) -> Vec<Finding> {
    [daemon(seen), native(seen), forwarding(seen), containers(seen)].concat()
}

/// Options of dockerd that do not fit.
fn daemon(seen: &Seen) -> Vec<Finding> {
    let Some(dockerd) = &seen.dockerd else { return Vec::new() };
    let mut found = Vec::new();
    let file = &dockerd.file;
    let restart = |finding: Finding| {
        finding
            .repair("sudo systemctl restart docker")
            .risk("containers stop meanwhile, unless dockerd runs with live-restore")
    };
    let writes = dockerd.switch("iptables").unwrap_or(true);
    let owner = seen.policy().map_or(NatOwner::Docker, |policy| policy.nat.owner);
    match (owner, writes) {
        (NatOwner::Docker, false) => found.push(
            Finding::weakens("docker-without-rules", "dockerd runs with iptables = false, and the policy says nat.owner = \"docker\"")
                .why("nobody translates or masquerades, docker-proxy answers for containers and hides who asks; without fw's programs nothing filters")
                .repair("# write [nat] owner = \"fw\" into the policy, then: sudo fw reload")
                .risk("fw writes rules of its own into nat and filter; `sudo fw plan` shows them first"),
        ),
        (NatOwner::Fw, true) if health::nat(seen.nat()).is_none() => found.push(restart(
            Finding::confuses("nat-owned-twice", health::NAT_REFUSED)
                .why("fw leaves NAT to Docker as long as its rules stand")
                .repair(format!("# write \"iptables\": false, \"ip6tables\": false into {file}")),
        )),
        (NatOwner::Docker, true) | (NatOwner::Fw, _) => {}
    }
    for host in dockerd.given("host").iter().filter(|host| host.starts_with("tcp://")) {
        let local = ["tcp://127.", "tcp://localhost", "tcp://[::1]"].iter().any(|at| host.starts_with(at));
        if !local && dockerd.switch("tlsverify") != Some(true) {
            found.push(restart(
                Finding::weakens(
                    "docker-socket-open",
                    format!("dockerd listens on {host} without asking who comes (tlsverify)"),
                )
                .why("who reaches that port is root on this host, and takes fw away")
                .repair(format!(
                    "# take {host} out of {file} or of dockerd's arguments; ssh:// does the same with keys"
                )),
            ));
        }
    }
    let without_proxy = dockerd.switch("userland-proxy") == Some(false);
    let one_family: Vec<String> = seen
        .inventory
        .published
        .iter()
        .filter(|port| without_proxy && port.target.is_none() && port.host.is_ipv6())
        .map(|port| format!("{} ({})", port.host_port, port.container))
        .collect();
    if !one_family.is_empty() {
        found.push(
            Finding::notes(
                "published-unanswered",
                format!("ports are published on IPv6 addresses, and lead nowhere there: {}", listed(&one_family)),
            )
            .why("these containers have no IPv6 address, and dockerd runs without docker-proxy, which would answer for them"),
        );
    }
    found
}

/// Docker's nftables backend, which has to be told of our mark.
fn native(seen: &Seen) -> Vec<Finding> {
    let Some(marks) = seen.marks() else { return Vec::new() };
    let theirs = seen.tables.iter().filter(|table| table.name.ends_with(" docker-bridges"));
    let texts: Vec<String> =
        theirs.map(|table| format!("table {} {{\n{}}}\n", table.name, table.text)).collect();
    let text = texts.concat();
    let reach = seen.desired.as_ref().is_some_and(|desired| !desired.state.tables.reach.is_empty());
    let advice = Native::read(&text, marks).and_then(|native| native.advice(marks, reach));
    let Some(advice) = advice else { return Vec::new() };
    let file = seen.dockerd.as_ref().map_or("/etc/docker/daemon.json", |dockerd| dockerd.file.as_str());
    let bit = marks.inward();
    vec![
        Finding::confuses("docker-ignores-mark", advice)
            .why("networks that may reach each other, and neighbours with icc, are dropped by Docker's own tables")
            .repair(format!("# write \"bridge-accept-fwmark\": \"{bit:#x}/{bit:#x}\" into {file}"))
            .repair("sudo systemctl restart docker")
            .risk("Docker accepts then what carries that mark, which only fw's programs give; containers stop meanwhile, unless dockerd runs with live-restore"),
    ]
}

/// Networks, and a kernel that does not forward for them.
fn forwarding(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    for (ipv6, path) in [(false, "net.ipv4.ip_forward"), (true, "net.ipv6.conf.all.forwarding")] {
        let of_family = |subnet: &IpNet| matches!(subnet, IpNet::V6(_)) == ipv6;
        let concerned: Vec<&str> = seen
            .inventory
            .networks
            .iter()
            .filter(|network| {
                !network.internal && network.bridge_ifindex.is_some() && network.subnets.iter().any(of_family)
            })
            .map(|network| network.name.as_str())
            .collect();
        let sysctl = path.replace('.', "/");
        if concerned.is_empty() || seen.sysctl(&sysctl) != Some(0) {
            continue;
        }
        found.push(
            Finding::confuses("forwarding-off", format!("{path} = 0, and there are networks of that family: {}", listed(&concerned)))
                .why("containers reach nothing outside and published ports lead nowhere, whatever the policy says")
                .repair(format!("sudo sysctl -w {path}=1"))
                .risk("the host forwards between all its interfaces then; packets that are for neither it nor a container are judged by its own rules alone"),
        );
    }
    found
}

/// Containers that can take the filter away, or that the policy does not hold for.
fn containers(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    for process in &seen.processes {
        let name = &process.container;
        let powers = powers(process);
        if !powers.is_empty() {
            found.push(
                Finding::weakens("container-powerful", format!("container {name} can take fw's programs and rules away: it has {}", listed(&powers)))
                    .why("what runs in it is root on this host, as far as the network is concerned")
                    .repair(format!("docker inspect --format '{{{{.HostConfig.Privileged}}}} {{{{.HostConfig.CapAdd}}}} {{{{.HostConfig.NetworkMode}}}}' {name}"))
                    .repair(format!("# make {name} again without --privileged, and with the capabilities and devices that it needs"))
                    .risk("it may need what is taken from it; the first line only shows what it was given"),
            );
        } else if process.host_network {
            found.push(
                Finding::notes("container-on-host", format!("container {name} is on the host's network"))
                    .why("it is the host: [networks] and [containers] do not hold for it, its ports need an [[allow]] rule, and nothing keeps it from 127.0.0.1"),
            );
        }
    }
    found
}

/// What of a process's capabilities reaches our programs (numbers of linux/capability.h).
fn powers(process: &Process) -> Vec<&'static str> {
    if !process.host_user {
        return Vec::new();
    }
    let has = |bit: u32| process.capabilities >> bit & 1 == 1;
    let mut powers = Vec::new();
    if has(21) {
        powers.push("CAP_SYS_ADMIN (--privileged has it)");
    }
    if has(16) {
        powers.push("CAP_SYS_MODULE");
    }
    if has(12) && process.host_network {
        powers.push("CAP_NET_ADMIN on the host's network");
    }
    powers
}
