//! What a policy means, in words for an operator.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{
    Egress, Fallback, FastPath, Interfaces, Labels, Mode, NatFrom, NatOwner, NatProto, NetworkPolicy, Origin,
    Policy, PortRange, Proto, Published, Set, SetName, Sources, Spoofing, SwarmNodes, Xdp, prefix,
};

/// Inline prefixes beyond this many are only counted.
const MOST_SHOWN: usize = 4;

/// The policy in words, one statement per line, ending in a line feed.
pub fn describe(policy: &Policy) -> String {
    let mut text = String::new();
    settings(&mut text, policy);
    text.push('\n');
    rules(&mut text, policy);
    sets(&mut text, policy);
    networks(&mut text, policy);
    containers(&mut text, policy);
    text
}

fn xdp(xdp: Xdp) -> &'static str {
    match xdp {
        Xdp::Auto => "uplinks of hardware drop early in their driver, if it can",
        Xdp::Off => "nothing is dropped early",
        Xdp::Native => "uplinks drop early in their driver",
        Xdp::Generic => "uplinks drop early in the kernel's generic path",
    }
}

fn fast_path(fast_path: FastPath) -> &'static str {
    match fast_path {
        FastPath::Off => "every packet takes the way of the kernel's stack",
        FastPath::On => "of a connection that the kernel's stack carries, one packet a second takes its way",
    }
}

fn settings(text: &mut String, policy: &Policy) {
    let mode = match policy.mode {
        Mode::Enforce => "what the policy does not allow is dropped",
        Mode::Observe => "what would be dropped is counted and reported, nothing is dropped",
    };
    let uplinks = match &policy.uplink.interfaces {
        Interfaces::Auto => "auto: physical interfaces and those of default routes".to_owned(),
        Interfaces::Named(names) => names.join(", "),
    };
    let published = match policy.uplink.published {
        Published::Closed => "a port that Docker publishes needs an allow rule",
        Published::Open => "a port that Docker publishes is open to any",
    };
    let fallback = match policy.fallback {
        Fallback::Docker if policy.nat.owner == NatOwner::Fw => {
            "without our programs nothing new is forwarded to a container"
        }
        Fallback::Docker => "without our programs Docker's own rules decide",
        Fallback::Closed => "without our programs new connections from the uplinks are dropped",
    };
    let labels = match policy.labels {
        Labels::MayNarrow => "fw.* labels of containers may take away from what the file allows",
        Labels::MayOpen => "fw.* labels of containers take the place of what the file says",
    };
    let swarm = match policy.docker.swarm {
        SwarmNodes::Auto => "the other nodes of a swarm that Docker is in reach what they need",
        SwarmNodes::Off => "nodes of a swarm reach what rules let them",
    };
    let nat = match policy.nat.owner {
        NatOwner::Docker => "Docker writes the NAT rules",
        NatOwner::Fw => "fw writes the NAT rules, Docker runs with --iptables=false",
    };
    let bit = policy.marks.bit;
    let lines = [
        ("mode", format!("{}: {mode}", policy.mode.word())),
        ("uplinks", uplinks),
        ("published", format!("{}: {published}", policy.uplink.published.word())),
        ("fallback", format!("{}: {fallback}", policy.fallback.word())),
        ("labels", format!("{}: {labels}", policy.labels.word())),
        ("xdp", format!("{}: {}", policy.uplink.xdp.word(), xdp(policy.uplink.xdp))),
        ("fast path", format!("{}: {}", policy.uplink.fast_path.word(), fast_path(policy.uplink.fast_path))),
        ("swarm", format!("{}: {swarm}", policy.docker.swarm.word())),
        ("nat", format!("{}: {nat}", policy.nat.owner.word())),
        (
            "tables",
            format!(
                "{} flows, {} of one container; about {} MB of kernel memory before anything is in them",
                policy.tables.flows,
                policy.tables.flows_per_container,
                policy.tables.memory().div_ceil(1_000_000)
            ),
        ),
        ("mark", format!("bits {bit} and {}, mask {:#010x}", bit + 1, policy.marks.mask())),
    ];
    for (key, value) in lines {
        line(text, format_args!("{key:<10} {value}"));
    }
}

/// Writes one line; writing to a string cannot fail.
fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    _ = writeln!(text, "{arguments}");
}

fn rules(text: &mut String, policy: &Policy) {
    let mut rows: Vec<[String; 4]> = Vec::new();
    for rule in &policy.deny {
        let from = format!("from {}, before every allow", names(&rule.from, policy));
        rows.push(["deny".into(), rule.name.clone(), "everything".into(), from]);
    }
    for rule in &policy.allow {
        let from = match &rule.from {
            Sources::Any => "from any".to_owned(),
            Sources::Sets(sets) => format!("from {}", names(sets, policy)),
        };
        rows.push(["allow".into(), rule.name.clone(), service(rule.proto, &rule.ports), from]);
    }
    for rule in &policy.limits {
        let most = format!("each source opens {} new flows a second, {} at once", rule.rate, rule.burst);
        rows.push(["limit".into(), rule.name.clone(), service(rule.proto, &rule.ports), most]);
    }
    for rule in &policy.out {
        let to = match &rule.to {
            Sources::Any => "to any".to_owned(),
            Sources::Sets(sets) => format!("to {}", names(sets, policy)),
        };
        let from = match rule.source_ports.as_slice() {
            [] => String::new(),
            ports => format!(" from port {}", listed(ports)),
        };
        rows.push(["out".into(), rule.name.clone(), service(rule.proto, &rule.ports) + &from, to]);
    }
    rows.extend(policy.nat.redirects.iter().map(|rule| {
        let whence = format!("of {} to port {} of this host", whose(&rule.from), rule.to);
        ["nat".into(), rule.name.clone(), translated(rule.proto, &rule.ports), whence]
    }));
    rows.extend(policy.nat.dnats.iter().map(|rule| {
        let to = rule.to_port.map_or(rule.to.to_string(), |port| SocketAddr::new(rule.to, port).to_string());
        let service = format!("{} of {}", translated(rule.proto, &rule.ports), rule.address);
        ["nat".into(), rule.name.clone(), service, format!("of {} to {to}", whose(&rule.from))]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (names, services) = (width(1), width(2));
    for [verb, name, service, from] in &rows {
        line(text, format_args!("{verb:<6} {name:<names$}  {service:<services$}  {from}"));
    }
    let published = match policy.uplink.published {
        Published::Open => ", and what Docker publishes passes",
        Published::Closed => "",
    };
    line(
        text,
        format_args!(
            "drop   everything else that comes in from outside; replies, and what IPv6 and DHCP need, pass{published}"
        ),
    );
    if !policy.out.is_empty() {
        line(
            text,
            format_args!(
                "drop   everything else that the host itself opens to the outside; answers, and what IPv6 and DHCP need, pass"
            ),
        );
    }
}

/// Protocol and ports: `tcp 80, 443, 8000-8100`.
fn service(proto: Proto, ports: &[PortRange]) -> String {
    match proto {
        Proto::Icmp => "icmp echo (IPv4 and IPv6)".to_owned(),
        Proto::Tcp | Proto::Udp => {
            let ports = if ports.is_empty() { "any port".to_owned() } else { listed(ports) };
            format!("{} {ports}", proto.word())
        }
    }
}

fn translated(proto: NatProto, ports: &[PortRange]) -> String {
    format!("{} {}", proto.word(), listed(ports))
}

fn whose(from: &BTreeSet<NatFrom>) -> String {
    from.iter().map(|from| from.word()).collect::<Vec<_>>().join(", ")
}

fn listed(ports: &[PortRange]) -> String {
    ports.iter().map(PortRange::to_string).collect::<Vec<_>>().join(", ")
}

/// Sets by name, inline ones by their prefixes.
fn names(sets: &[SetName], policy: &Policy) -> String {
    let shown = |name: &SetName| match policy.sets.get(name) {
        Some(Set { prefixes, origin: Origin::Inline }) => {
            let mut shown: Vec<String> = prefixes.iter().take(MOST_SHOWN).map(prefix::shown).collect();
            if prefixes.len() > MOST_SHOWN {
                shown.push(format!("{} more", prefixes.len() - MOST_SHOWN));
            }
            shown.join(", ")
        }
        _ => name.to_string(),
    };
    sets.iter().map(shown).collect::<Vec<_>>().join(", ")
}

fn sets(text: &mut String, policy: &Policy) {
    let named: Vec<_> = policy.sets.iter().filter(|(_, set)| set.origin != Origin::Inline).collect();
    if named.is_empty() {
        return;
    }
    text.push_str("\nsets\n");
    let width = named.iter().map(|(name, _)| name.as_str().chars().count()).max().unwrap_or(0);
    for (name, set) in named {
        let count = match set.prefixes.len() {
            1 => "1 prefix".to_owned(),
            count => format!("{count} prefixes"),
        };
        let file = match &set.origin {
            Origin::File(path) => format!(", from {}", path.display()),
            Origin::List | Origin::Inline => String::new(),
        };
        line(text, format_args!("  {:<width$}  {count}{file}", name.as_str()));
    }
}

fn networks(text: &mut String, policy: &Policy) {
    text.push_str("\nnetworks\n");
    let width =
        policy.networks.keys().map(|name| name.chars().count()).max().unwrap_or(0).max("others".len());
    for (name, network) in &policy.networks {
        line(text, format_args!("  {name:<width$}  {}", of_network(network, policy)));
    }
    line(text, format_args!("  {:<width$}  {}", "others", of_network(&policy.default_network, policy)));
    for network in &policy.static_networks {
        let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
        let (name, bridge) = (&network.name, &network.bridge);
        line(text, format_args!("  {name} is the bridge {bridge} with {}", subnets.join(", ")));
    }
}

fn containers(text: &mut String, policy: &Policy) {
    if policy.containers.is_empty() {
        return;
    }
    text.push_str("\ncontainers\n");
    let width = policy.containers.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, container) in &policy.containers {
        let egress = container.egress.as_ref().map_or("as its network".to_owned(), |it| egress(it, policy));
        let host = container.host.map_or("as its network", |host| host.word());
        line(text, format_args!("  {name:<width$}  egress {egress}; host {host}"));
    }
}

fn egress(egress: &Egress, policy: &Policy) -> String {
    match egress {
        Egress::Any => "any".to_owned(),
        Egress::None => "none".to_owned(),
        Egress::Internet => "internet".to_owned(),
        Egress::To(sets) => names(sets, policy),
    }
}

fn of_network(network: &NetworkPolicy, policy: &Policy) -> String {
    let egress = egress(&network.egress, policy);
    let icc = match network.icc {
        None => "as Docker says",
        Some(true) => "yes",
        Some(false) => "no",
    };
    let spoofing = match network.spoofing {
        Spoofing::Drop => "foreign source addresses are dropped",
        Spoofing::Allow => "any source address passes",
    };
    let reach = match network.reach.as_slice() {
        [] => String::new(),
        names => format!("; reaches {}", names.join(", ")),
    };
    format!("{spoofing}; egress {egress}; host {}; icc {icc}{reach}", network.host.word())
}
