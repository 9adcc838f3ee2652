//! `fw status`: what is in force, what the outside reaches and why, what was dropped, and whether all is well.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use fw_common::tables::memory::Memory;
use fw_common::tables::{Daemon, Port, PortKey, name_kind, nat_health, sources};
use fw_common::wire::proto;
use fw_common::{Address, Hook};
use serde_json::{Value, json};

use super::{Engine, Outcome, Pins, is_fw, is_halted, print, runtime};
use crate::control::{self, Answer, Request};
use crate::datapath::{Directory, DirectoryError, Maps, attached_in};
use crate::docker::{Docker, DockerError, DockerSnapshot};
use crate::handover::{self, Iptables, Nft};
use crate::inventory::{Inventory, with_bridges};
use crate::netlink::{self, HostSnapshot, Link};
use crate::plan::{HookPoint, State};
use crate::reconcile::{chain, monotonic_seconds};
use crate::view::{self, Names, Row, row};

/// Options of `fw status`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A daemon that has not finished a pass for so long does not keep up.
const OVERDUE: u64 = 60;

/// Shows the status; exit 0 only if the policy is in force and a daemon keeps it so.
pub fn run(options: &Options) -> Outcome {
    let directory = match Directory::open(&options.pins.bpffs) {
        Ok(directory) => directory,
        Err(error @ DirectoryError::Empty { .. }) if options.json => {
            print(&format!("{}\n", json!({"in_force": false, "problems": [error.to_string()]})))?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    let maps = Maps::open(directory.path())?;
    // The lock alone may be that of a daemon which is only starting, beside what its predecessor said of itself.
    let alive = directory.is_locked() && is_fw(maps.daemon()?.pid);
    let host = netlink::snapshot()?;
    let docker = runtime()?.block_on(ask_docker(&options.engine.docker));
    let mut report = Report::new(&directory, &maps, alive, &host, docker)?;
    if let Some(seconds) = trial(&directory) {
        report.problems.push(format!(
            "the policy is on trial: the one before comes back in {seconds} s, unless `fw confirm` comes"
        ));
    }
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report.json())?))?;
    } else {
        print(&report.text())?;
    }
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Seconds that are left of the trial of a policy.
fn trial(directory: &Directory) -> Option<u64> {
    let socket = control::socket(directory.path()).ok()?;
    match control::ask(&socket, &Request::Waiting).ok()? {
        Answer::Waiting { seconds } => seconds,
        _ => None,
    }
}

async fn ask_docker(url: &str) -> Result<DockerSnapshot, DockerError> {
    Docker::connect_within(url, Duration::from_secs(2)).await?.snapshot().await
}

struct Report {
    mode: &'static str,
    daemon: Daemon,
    alive: bool,
    hooks: Vec<Row>,
    networks: Vec<Row>,
    /// Containers with labels, or with terms that are not their network's.
    containers: Vec<Row>,
    exposure: Vec<Row>,
    stations: Vec<Row>,
    counters: Vec<Row>,
    rules: Vec<Row>,
    docker: Value,
    handover: Value,
    problems: Vec<String>,
}

impl Report {
    fn new(
        directory: &Directory,
        maps: &Maps,
        alive: bool,
        host: &HostSnapshot,
        docker: Result<DockerSnapshot, DockerError>,
    ) -> anyhow::Result<Self> {
        // Nothing is shown of the sets' content.
        let state = maps.read_around(&Memory::default())?;
        let names = Names { names: &state.names };
        let daemon = maps.daemon()?;
        let mut problems = problems(&daemon, alive);
        problems.extend(nat_problem(daemon.nat).map(str::to_owned));
        let roles = || state.tables.interfaces.values().map(|interface| interface.role);
        if daemon.ready != 0 && !roles().any(|role| role == fw_common::tables::role::UPLINK) {
            problems.push(
                "there is no uplink: nothing from outside is judged; see `uplink.interfaces`".to_owned(),
            );
        }
        let docker = docker.map(|docker| with_bridges(docker, host));
        let inventory = Inventory::new(docker.as_ref().ok(), host, &BTreeMap::new(), &[]);
        let docker = match docker {
            Ok(docker) => json!({"answers": true, "version": docker.version, "api": docker.api}),
            Err(error) => {
                problems.push(format!("Docker: {}", chain(&error)));
                json!({"answers": false, "error": chain(&error)})
            }
        };
        Ok(Self {
            mode: if state.tables.settings.observe == 0 { "enforce" } else { "observe" },
            hooks: hooks(directory, host, &mut problems)?,
            networks: networks(&state, names, host),
            containers: containers(&state, names, &inventory),
            exposure: exposure(&state, names, &inventory),
            stations: stations(&state, &inventory),
            counters: view::counters(maps)?,
            rules: view::rows("rules", maps, 0)?.unwrap_or_default(),
            handover: handover(&state, host, daemon.nat, &mut problems),
            daemon,
            alive,
            docker,
            problems,
        })
    }

    fn is_well(&self) -> bool {
        self.alive && self.daemon.ready != 0
    }

    fn json(&self) -> Value {
        let drops: Vec<&Row> = self.drops().collect();
        json!({
            "in_force": self.daemon.ready != 0,
            "mode": self.mode,
            "daemon": {
                "alive": self.alive,
                "ready": self.alive && self.daemon.ready != 0,
                "degraded": self.daemon.degraded != 0,
                "pid": self.daemon.pid,
                "passes": self.daemon.passes,
            },
            "hooks": self.hooks,
            "networks": self.networks,
            "containers": self.containers,
            "exposure": self.exposure,
            "stations": self.stations,
            "drops": drops,
            "counters": self.counters,
            "rules": self.rules,
            "docker": self.docker,
            "handover": self.handover,
            "problems": self.problems,
        })
    }

    fn drops(&self) -> impl Iterator<Item = &Row> {
        self.counters.iter().filter(|row| row.get("drop") == Some(&Value::Bool(true)))
    }

    fn text(&self) -> String {
        let state = match (self.alive, self.daemon.ready != 0) {
            (true, true) => "in force, daemon running",
            (false, true) => "in force, but no daemon keeps it in step",
            (true, false) => "starting",
            (false, false) => "not in force",
        };
        let mut text = format!("fw: {state} (mode {})\n", self.mode);
        for problem in &self.problems {
            text += &format!("problem: {problem}\n");
        }
        let drops: Vec<Row> = self.drops().map(|row| without(row, &["drop"])).collect();
        for (title, rows) in [
            ("Hooks", &self.hooks),
            ("Networks", &self.networks),
            ("Containers with labels or terms of their own", &self.containers),
            ("Reachable from outside", &self.exposure),
            (STATIONS, &self.stations),
            ("Rules", &self.rules),
            (if self.mode == "enforce" { "Dropped" } else { "Would have been dropped" }, &drops),
        ] {
            // Few hosts have any.
            if rows.is_empty() && title == STATIONS {
                continue;
            }
            text += &format!("\n{title}\n");
            for line in view::aligned(rows).lines() {
                text += &format!("  {line}\n");
            }
        }
        let answer =
            |key: &str| self.docker.get(key).and_then(Value::as_str).unwrap_or("does not answer").to_owned();
        text += &format!("\nDocker    {}\nHand-over {}\n", answer("version"), summary(&self.handover));
        text
    }
}

const STATIONS: &str = "Containers on uplinks, behind the same rules";

fn without(row: &Row, keys: &[&str]) -> Row {
    row.iter()
        .filter(|(key, _)| !keys.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn summary(handover: &Value) -> String {
    let text = |key: &str| handover.get(key).and_then(Value::as_str).map(str::to_owned);
    text("error").or_else(|| text("summary")).unwrap_or_default()
}

fn problems(daemon: &Daemon, alive: bool) -> Vec<String> {
    let mut problems = Vec::new();
    if !alive {
        problems.push(
            "no daemon is running: traffic stays filtered by the last tables, new containers are not known; start \
             `fw run`"
                .to_owned(),
        );
    } else if is_halted(daemon.pid) {
        problems.push(format!("the daemon is halted: `kill -CONT {}` lets it go on", daemon.pid));
    } else if daemon.ready == 0 {
        problems.push("the first pass is not finished".to_owned());
    } else if daemon.degraded != 0 {
        problems.push("the last pass was not complete; the daemon's log says why".to_owned());
    } else if monotonic_seconds().saturating_sub(daemon.last_pass) > OVERDUE {
        problems.push(format!("the daemon has not finished a pass for {OVERDUE} s; its log says why"));
    }
    problems
}

fn hooks(directory: &Directory, host: &HostSnapshot, problems: &mut Vec<String>) -> anyhow::Result<Vec<Row>> {
    let devices: BTreeMap<u32, String> =
        host.links.iter().map(|link| (link.index, link.name.clone())).collect();
    let mut rows = Vec::new();
    let attached = attached_in(directory.path(), &host.links)?;
    for (point, (how, alive)) in &attached {
        let device = devices.get(&point.ifindex).cloned().unwrap_or_else(|| format!("({})", point.ifindex));
        let hook = point.hook.name();
        if !alive {
            problems.push(format!("{hook} does not run on {device}; the next full pass puts it back"));
        }
        rows.push(row(json!({
            "device": device,
            "hook": hook,
            "by": how.name(),
            "runs": alive,
        })));
    }
    rows.extend(foreign(host, &attached.into_keys().collect()));
    Ok(rows)
}

/// XDP programs of others on our uplinks, which keep ours off.
fn foreign(host: &HostSnapshot, attached: &BTreeSet<HookPoint>) -> Vec<Row> {
    let on = |ifindex, hook| attached.contains(&HookPoint { ifindex, hook });
    let links = host.links.iter().filter(|link| !link.xdp.is_empty());
    let theirs = links.filter(|link| on(link.index, Hook::UplinkIngress) && !on(link.index, Hook::UplinkXdp));
    let row_of = |link: &Link| {
        let hook = Hook::UplinkXdp.name();
        row(json!({"device": link.name, "hook": hook, "by": "another program", "runs": false}))
    };
    theirs.map(row_of).collect()
}

fn networks(state: &State, names: Names<'_>, host: &HostSnapshot) -> Vec<Row> {
    let tables = &state.tables;
    let one = |(id, network): (&u32, &fw_common::tables::Network)| {
        let subnets: Vec<String> = tables
            .subnets
            .iter()
            .filter(|(_, subnet)| subnet.network == *id)
            .map(|(prefix, _)| view::prefix(prefix))
            .collect();
        let ports = |known: u8| {
            let ports = tables.interfaces.values().filter(|interface| interface.network == *id);
            ports
                .filter(|port| port.role == fw_common::tables::role::PORT && port.endpoint_known == known)
                .count()
        };
        row(json!({
            "network": names.of(name_kind::NETWORK, *id),
            "bridge": host.link(*id).map(|link| link.name.clone()),
            "subnets": subnets,
            "containers": ports(1),
            "unknown_ports": ports(0),
            "icc": network.icc != 0,
            "internal": network.internal != 0,
            "egress": view::egress(&network.terms, names),
            "host": network.terms.host != 0,
            "reaches": view::reached(state, names, *id),
        }))
    };
    tables.networks.iter().map(one).collect()
}

/// Containers that may less, or more, than their network says, and those that say something by labels.
fn containers(state: &State, names: Names<'_>, inventory: &Inventory) -> Vec<Row> {
    let tables = &state.tables;
    let one = |(ifindex, port): (&u32, &fw_common::tables::Interface)| {
        let network = tables.networks.get(&port.network)?;
        let name = names.of(name_kind::ENDPOINT, *ifindex);
        let place = inventory.endpoints.iter().find(|place| place.container == name);
        let labels: Vec<String> = place
            .into_iter()
            .flat_map(|place| &place.labels)
            .filter(|(name, _)| name.starts_with(crate::policy::label::PREFIX))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if labels.is_empty() && port.terms == network.terms && port.apart == 0 {
            return None;
        }
        Some(row(json!({
            "container": name,
            "network": names.of(name_kind::NETWORK, port.network),
            "egress": view::egress(&port.terms, names),
            "host": port.terms.host != 0,
            "icc": network.icc != 0 && port.apart == 0,
            "labels": labels,
        })))
    };
    let ports = tables.interfaces.iter();
    let known =
        ports.filter(|(_, port)| port.role == fw_common::tables::role::PORT && port.endpoint_known != 0);
    known.filter_map(one).collect()
}

/// What the outside reaches: ports with a rule or open by being published, neighbours with equal terms joined.
fn exposure(state: &State, names: Names<'_>, inventory: &Inventory) -> Vec<Row> {
    let mut rows: Vec<(u16, Row)> = Vec::new();
    let open = state
        .tables
        .ports
        .iter()
        .filter(|(_, port)| port.sources & !sources::ALONE != sources::NOBODY || port.open != 0);
    let mut sorted: Vec<(&PortKey, &Port)> = open.collect();
    sorted.sort_by_key(|(key, _)| (key.proto, key.address, key.port));
    for (key, port) in sorted {
        let terms = row(json!({
            "proto": view::protocol(key.proto),
            "address": match key.address {
                Address::ANY_V4 => "any IPv4".to_owned(),
                Address::ANY_V6 => "any IPv6".to_owned(),
                other => other.to_string(),
            },
            "ports": match key.proto {
                proto::ICMP => "echo".to_owned(),
                0 => "all".to_owned(),
                _ => key.port.to_string(),
            },
            "from": match port.sources & !sources::ALONE {
                sources::ZONES if port.open == 0 => json!(names.zones(port.zones)),
                _ => json!("any"),
            },
            "why": match port.rule {
                0 if key.ifindex != 0 => "an interface that Docker trusts".to_owned(),
                0 => "published = \"open\"".to_owned(),
                rule => format!("rule {}", names.of(name_kind::RULE, rule)),
            },
            "leads_to": leads_to(inventory, key),
        }));
        match rows.last_mut() {
            Some((last, joined)) if last.checked_add(1) == Some(key.port) && same_terms(joined, &terms) => {
                *last = key.port;
                let first = joined.get("ports").and_then(Value::as_str).unwrap_or_default();
                let first = first.split('-').next().unwrap_or_default().to_owned();
                joined.insert("ports".to_owned(), json!(format!("{first}-{last}")));
            }
            _ => rows.push((key.port, terms)),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Containers that share an uplink: by their own addresses they are reached as rules open ports of the host.
fn stations(state: &State, inventory: &Inventory) -> Vec<Row> {
    let one = |station: &crate::inventory::Station| {
        let network = inventory.lan_networks.get(station.network)?;
        let shared =
            |it: &fw_common::tables::Interface| it.shared != 0 && Some(it.l3_device) == network.parent;
        Some(row(json!({
            "container": station.container,
            "network": network.name,
            "driver": network.driver,
            "device": network.parent_name,
            "mac": station.mac.map(|mac| mac.to_string()),
            "addresses": station.addresses,
            "judged": state.tables.interfaces.values().any(shared),
        })))
    };
    inventory.stations.iter().filter_map(one).collect()
}

fn same_terms(left: &Row, right: &Row) -> bool {
    without(left, &["ports"]) == without(right, &["ports"])
}

/// The container behind a published port; the host itself otherwise.
fn leads_to(inventory: &Inventory, key: &PortKey) -> String {
    use crate::docker::Transport;
    let number = |protocol| match protocol {
        Transport::Tcp => proto::TCP,
        Transport::Udp => proto::UDP,
        Transport::Sctp => proto::SCTP,
    };
    let any = key.address == key.address.any_of_family();
    let published = inventory.published.iter().filter(|published| {
        let address = Address::from(published.host);
        number(published.protocol) == key.proto
            && published.host_port == key.port
            && address.is_v4() == key.address.is_v4()
            && (any || address == key.address)
            && !address.is_loopback()
    });
    let mut containers: Vec<String> =
        published.map(|published| format!("{}:{}", published.container, published.container_port)).collect();
    // At a container's own address a port leads to itself.
    let direct = inventory.direct.iter().find(|direct| Address::from(direct.address) == key.address);
    containers.extend(direct.map(|direct| direct.container.clone()));
    if containers.is_empty() { "host".to_owned() } else { containers.join(", ") }
}

fn nat_problem(health: u8) -> Option<&'static str> {
    match health {
        nat_health::REFUSED => Some(
            "NAT: the policy says nat.owner = \"fw\", but Docker's own rules stand: run dockerd with --iptables=false and \
             take its rules away as docs/operations.md says",
        ),
        nat_health::GONE => Some(
            "Docker's NAT rules are gone (iptables -F, nft flush ruleset): no published port is reached by new \
             connections; restart Docker",
        ),
        nat_health::FAILED => Some("NAT: our rules could not be written; the daemon's log says why"),
        _ => None,
    }
}

fn handover(state: &State, host: &HostSnapshot, nat: u8, problems: &mut Vec<String>) -> Value {
    let interfaces = state.tables.interfaces.values();
    let uplinks = interfaces.filter(|interface| interface.role == fw_common::tables::role::UPLINK);
    let devices =
        uplinks.filter_map(|interface| host.link(interface.l3_device)).map(|link| link.name.clone());
    let found = handover::Marks::new(state.tables.settings.mark_bit)
        .and_then(|marks| handover::Desired::new(marks, devices, !state.tables.reach.is_empty()))
        .and_then(|wanted| Iptables::find()?.status(&wanted));
    let native = handover::Marks::new(state.tables.settings.mark_bit).ok().and_then(|marks| {
        let native = Nft::find()?.docker(marks).ok()??;
        Some((native, native.advice(marks, !state.tables.reach.is_empty())))
    });
    match found {
        Ok(status) => {
            let missing: usize = status.places.iter().map(|place| place.report.missing.len()).sum();
            let rules: usize = status.places.iter().map(|place| place.report.in_place.len()).sum();
            // What ends in the host is asked for each of them, whatever stands before.
            let raw: usize = status.places.iter().map(|place| place.report.raw).sum();
            let raw = if raw > 0 {
                format!(
                    "; Docker's {raw} in raw are behind one of them (docs/operations.md says what they cost)"
                )
            } else {
                String::new()
            };
            if missing > 0 && nat != nat_health::STANDS {
                problems.push(format!(
                    "{missing} of our rules are missing in iptables; the next pass puts them back"
                ));
            }
            if status.places.iter().any(|place| !place.report.reached) && nat != nat_health::STANDS {
                problems.push(
                    "FORWARD in iptables does not lead to DOCKER-USER (iptables -F): Docker's policy drops what is \
                     forwarded, vetted or not; restart Docker, and create a network if it runs with live-restore"
                        .to_owned(),
                );
            }
            let own: Vec<String> =
                status.own.iter().map(|own| format!("{} rules in {}", own.rules, own.place)).collect();
            if nat == nat_health::STANDS && own.is_empty() {
                problems.push("our NAT rules are gone; the next pass puts them back".to_owned());
            }
            let summary = match (nat, status.places.is_empty(), missing) {
                (nat_health::STANDS, ..) => format!("fw writes NAT: {}", own.join(", ")),
                // What stands in DOCKER-USER, Docker's nftables rules do not ask.
                _ if native.is_some() => match native.as_ref().and_then(|(_, advice)| advice.clone()) {
                    Some(advice) => advice,
                    None => {
                        "Docker filters with nftables and takes our mark: nothing to hand over".to_owned()
                    }
                },
                (_, true, _) => "Docker has no chain DOCKER-USER: nothing to hand over".to_owned(),
                (_, false, 0) => format!("iptables holds our {rules} rules{raw}"),
                (_, false, missing) => format!("{missing} rules are missing"),
            };
            let nat = match nat {
                nat_health::NOT_OURS => "docker",
                nat_health::STANDS => "fw",
                nat_health::REFUSED => "refused",
                nat_health::GONE => "gone",
                _ => "failed",
            };
            json!({
                "summary": summary,
                "places": status.places,
                "unreadable": status.unreadable,
                "nat": nat,
                "own": status.own,
                "nftables": native.map(|(native, _)| native),
            })
        }
        Err(error) => {
            problems.push(format!("hand-over: {}", chain(&error)));
            json!({"error": chain(&error)})
        }
    }
}
