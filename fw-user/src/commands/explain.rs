//! `fw explain`: what becomes of a packet and why, step by step, by the loaded programs; changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use fw_common::tables::memory::Memory;
use fw_common::tables::role;
use serde_json::json;

use super::plan::{ask_docker, in_force};
use super::{DROPPED, Engine, Failure, Outcome, Pins, need_privileges, print, read_policy, runtime};
use crate::datapath::{Beside, Directory, DirectoryError, Maps};
use crate::desired::desired;
use crate::difference;
use crate::docker::{Docker, DockerSnapshot};
use crate::explain::capture::{self, Bytes, Captured};
use crate::explain::frame::{self, Unclear, Words};
use crate::explain::netfilter::Netfilter;
use crate::explain::trace::Known;
use crate::explain::{Explainer, Frame};
use crate::exposure::service;
use crate::inventory::{Inventory, with_bridges};
use crate::netlink::{self, HostSnapshot};
use crate::plan::State;
use crate::reconcile::{chain, check_uplinks};

mod report;

use report::{Answer, Report};

/// Options of `fw explain`.
///
/// Exits with 0 if fw lets the packet go on, with 4 if it drops it, or would if it did not only observe; of a capture,
/// with 4 if it drops any packet.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  fw explain tcp 198.51.100.7 192.0.2.1:443 --in eth0
  fw explain udp [2001:db8::7]:5353 [2001:db8::1]:53 --in eth0 --policy new.toml
  fw explain tcp web db:5432 --container web
  fw explain --packet capture.pcapng --in eth0 --json

EXIT CODES: 0 accepted or passed, 1 not explained, 2 usage or bad policy, 4 dropped (or would be, while only observing)")]
pub struct Options {
    /// tcp, udp, icmp (echo), sctp, udplite, gre, or the number of an IP protocol
    #[arg(value_name = "PROTO", required_unless_present = "packet", requires = "to")]
    proto: Option<String>,
    /// Where it comes from: an address or a container's name; without a port it is 40000; of icmp it is the identifier
    #[arg(value_name = "SRC[:PORT]")]
    from: Option<String>,
    /// Where it goes: an address or a container's name; IPv6 in brackets where a port follows
    #[arg(value_name = "DST[:PORT]")]
    to: Option<String>,
    /// The device by which it comes in
    #[arg(long = "in", value_name = "IFACE")]
    comes_in: Option<String>,
    /// The container that sends it, in place of --in: its port
    #[arg(long, value_name = "NAME", conflicts_with = "comes_in")]
    container: Option<String>,
    /// The device by which the host itself sends it, in place of --in
    #[arg(long = "out", value_name = "IFACE", conflicts_with_all = ["comes_in", "container"])]
    leaves: Option<String>,
    /// Flags of TCP, with commas between them [default: syn]
    #[arg(long, value_name = "FLAGS", conflicts_with = "packet")]
    flags: Option<String>,
    /// An answer: syn,ack of TCP, an echo reply
    #[arg(long, conflicts_with_all = ["packet", "flags"])]
    reply: bool,
    /// A frame in hexadecimal, or a file of pcap or pcapng, all of whose packets are explained, each by itself
    #[arg(long, value_name = "HEX|FILE", conflicts_with_all = ["proto", "from", "to"])]
    packet: Option<String>,
    /// Explain it under this policy file instead of what is in force
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which packets are asked about.
enum Question {
    Words(Words),
    Captured(Vec<Captured>),
}

/// What they are explained by.
struct Basis {
    state: State,
    beside: Beside,
    live: Option<Maps>,
    /// Whether `state` is what is in force.
    in_force: bool,
    services: BTreeMap<String, String>,
    /// Rules that only the policy file has.
    new_rules: BTreeSet<String>,
    warnings: Vec<String>,
}

/// Explains packets; the exit code tells whether one is dropped.
pub fn run(options: &Options) -> Outcome {
    let question = question(options).map_err(|error| Failure::Usage(error.into()))?;
    let host = netlink::snapshot();
    let policy = options.policy.as_deref().map(read_policy).transpose()?;
    need_privileges()?;
    let host = host?;
    let basis = match policy {
        None => live(options)?,
        Some(policy) => foreseen(options, &policy, &host)?,
    };
    let ifindex = device(options, &question, &basis.state, &host)?;
    let devices = host.links.iter().map(|link| (link.index, link.name.clone())).collect();
    let known = Known { state: &basis.state, devices: &devices, services: &basis.services };
    let frames = frames(&question, &basis.state, ifindex, options.leaves.is_some())
        .map_err(|error| Failure::Usage(error.into()))?;
    let mut explainer = Explainer {
        known: &known,
        beside: basis.beside,
        live: basis.live,
        pins: basis.in_force.then_some(options.pins.bpffs.as_path()),
        links: &host.links,
        running: BTreeMap::new(),
    };
    let mut warnings = basis.warnings;
    let mut netfilter = None;
    let mut answers = Vec::new();
    for (frame, missing) in frames {
        let explanation = explainer.explain(&frame)?;
        let next = if explanation.goes_up {
            // By the device that has the address: of a port its bridge.
            let device =
                known.state.tables.interfaces.get(&ifindex).map_or(ifindex, |device| device.l3_device);
            let read = netfilter.get_or_insert_with(Netfilter::read);
            read.as_ref().ok().map(|netfilter| netfilter.next(&known, &host, &explanation, device))
        } else {
            None
        };
        let new_rule = explanation.rule.as_ref().is_some_and(|rule| basis.new_rules.contains(rule));
        answers.push(Answer { explanation, netfilter: next, new_rule, missing });
    }
    if let Some(Err(error)) = &netfilter {
        warnings.push(format!("cannot tell what netfilter does next: {}", chain(error)));
    }
    let settings = &basis.state.tables.settings;
    let report = Report {
        policy: options.policy.as_ref().map(|file| file.display().to_string()),
        mode: if settings.observe == 0 { "enforce" } else { "observe" },
        fast_path: settings.fast_path != 0,
        new_rules: basis.new_rules.iter().cloned().collect(),
        packets: answers,
        warnings,
    };
    for warning in &report.warnings {
        eprintln!("fw: warning: {warning}");
    }
    let text = if options.json {
        format!("{}\n", serde_json::to_string_pretty(&json!(report))?)
    } else {
        report.text()
    };
    print(&text)?;
    Ok(if report.drops() { ExitCode::from(DROPPED) } else { ExitCode::SUCCESS })
}

/// What is asked, as far as it can be told without the host.
fn question(options: &Options) -> Result<Question, Unclear> {
    if let Some(packet) = &options.packet {
        return Ok(Question::Captured(match std::fs::read(packet) {
            Ok(content) => capture::capture(packet, &content)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => vec![capture::hex(packet)?],
            // A frame in hexadecimal may be longer than the name of a file.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidFilename => vec![capture::hex(packet)?],
            Err(error) => return Err(Unclear::Capture { file: packet.clone(), what: error.to_string() }),
        }));
    }
    let [proto, from, to] =
        [&options.proto, &options.from, &options.to].map(|word| word.as_deref().unwrap_or_default());
    Words::parse([proto, from, to], options.flags.as_deref(), options.reply).map(Question::Words)
}

/// The tables in force, and the programs beside those that run.
fn live(options: &Options) -> Result<Basis, Failure> {
    let directory = Directory::open(&options.pins.bpffs)?;
    let maps = Maps::open(directory.path())?;
    // Sets, which may have a million prefixes, are asked where they are.
    let state = maps.read_around(&Memory::default())?;
    let services = runtime()?.block_on(async {
        let asked = async { anyhow::Ok(Docker::connect(&options.engine.docker).await?.snapshot().await?) };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(docker)) => services(&docker),
            // Services are names beside names: without them all else is told.
            Ok(Err(_)) | Err(_) => BTreeMap::new(),
        }
    });
    let beside = Beside::of(&directory)?;
    Ok(Basis {
        state,
        beside,
        live: Some(maps),
        in_force: true,
        services,
        new_rules: BTreeSet::new(),
        warnings: Vec::new(),
    })
}

/// How long Docker is waited for to name services.
const PATIENCE: Duration = Duration::from_secs(2);

/// The tables that a policy file would put in force, and programs that read those.
fn foreseen(
    options: &Options,
    policy: &crate::policy::Policy,
    host: &HostSnapshot,
) -> Result<Basis, Failure> {
    check_uplinks(policy, None, &host.links).map_err(|error| Failure::Usage(error.into()))?;
    let (current, live) = match Directory::open(&options.pins.bpffs) {
        Ok(directory) => {
            let maps = Maps::open(directory.path())?;
            (in_force(&directory, &maps, host)?, Some(maps))
        }
        Err(DirectoryError::Empty { .. }) => (State::default(), None),
        Err(error) => return Err(error.into()),
    };
    let (docker, links) = runtime()?.block_on(ask_docker(&options.engine.docker))?;
    let docker = with_bridges(docker, host);
    let inventory = Inventory::new(Some(&docker), host, &links, &policy.static_networks);
    let wanted = desired(policy, &inventory, &current).map_err(|error| Failure::Usage(error.into()))?;
    let beside = Beside::with(&wanted.state, &policy.tables.of_maps())?;
    Ok(Basis {
        services: services(&docker),
        new_rules: difference::rules(&wanted.state, &current).into_iter().collect(),
        state: wanted.state,
        beside,
        live,
        in_force: false,
        warnings: wanted.warnings,
    })
}

/// The services of containers, as compose's labels name them: `PROJECT/SERVICE`, by the container's name.
fn services(docker: &DockerSnapshot) -> BTreeMap<String, String> {
    let one =
        |container: &crate::docker::DockerContainer| Some((container.name.clone(), service(container)?));
    docker.containers.iter().filter_map(one).collect()
}

/// The device that is meant.
fn device(
    options: &Options,
    question: &Question,
    state: &State,
    host: &HostSnapshot,
) -> Result<u32, Failure> {
    let usage = |text: String| Failure::Usage(anyhow::anyhow!(text));
    let known = |ifindex: &u32| state.tables.interfaces.contains_key(ifindex);
    let named = options.comes_in.as_ref().or(options.leaves.as_ref());
    let sender = match question {
        Question::Words(words) if named.is_none() => words.sender(),
        _ => None,
    };
    if let Some(name) = options.container.as_deref().or(sender) {
        let ports = frame::ports_of(state, name);
        return match ports[..] {
            [port] => Ok(port),
            [] => Err(usage(format!(
                "no container {name:?} stands behind a port of a bridge that fw knows; expected one of those that \
                 `fw table endpoints` lists"
            ))),
            _ => {
                let of =
                    |port: &u32| host.link(*port).map_or_else(|| port.to_string(), |link| link.name.clone());
                let ports: Vec<_> = ports.iter().map(of).collect();
                Err(usage(format!(
                    "the container {name} is on several networks; name its port: --in {}",
                    ports.join(" or --in ")
                )))
            }
        };
    }
    let judged = || {
        let of_role = |wanted| host.links.iter().filter(move |link| role_of(state, link.index) == wanted);
        let uplinks = of_role(role::UPLINK).map(|link| format!("{} (uplink)", link.name));
        let bridges = of_role(role::BRIDGE).map(|link| format!("{} (bridge)", link.name));
        let ports = of_role(role::PORT).count();
        let ports = (ports > 0).then(|| format!("the ports of {ports} containers (--container NAME)"));
        let all: Vec<_> = uplinks.chain(bridges).chain(ports).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    };
    let Some(name) = named else {
        return Err(usage(format!(
            "where does it come in? expected --in IFACE, --container NAME or --out IFACE; devices that fw judges: {}",
            judged()
        )));
    };
    let link = host.links.iter().find(|link| link.name == *name);
    let link = link.filter(|link| known(&link.index));
    let Some(link) = link else {
        let what = if host.links.iter().any(|link| link.name == *name) {
            format!("fw does not judge what comes in by {name}")
        } else {
            format!("there is no device {name}")
        };
        return Err(usage(format!("{what}; expected one of: {}", judged())));
    };
    if options.leaves.is_some() && role_of(state, link.index) != role::UPLINK {
        return Err(usage(format!(
            "--out {name}: the host's own packets are judged at uplinks alone; expected one of: {}",
            judged()
        )));
    }
    Ok(link.index)
}

/// The frames to explain, each with how many bytes of it the capture left out.
fn frames(
    question: &Question,
    state: &State,
    ifindex: u32,
    leaves: bool,
) -> Result<Vec<(Frame, u32)>, Unclear> {
    let of = |bytes: Vec<u8>| Frame { ifindex, leaves, bytes };
    Ok(match question {
        Question::Words(words) => {
            let (tuple, flags) = words.tuple(state)?;
            vec![(of(frame::frame(&state.tables, ifindex, &tuple, flags)), 0)]
        }
        Question::Captured(packets) => packets
            .iter()
            .map(|captured| {
                let bytes = match &captured.bytes {
                    Bytes::Frame(bytes) => bytes.clone(),
                    Bytes::Packet(packet) => frame::on_link(&state.tables, ifindex, packet),
                };
                (of(bytes), captured.missing)
            })
            .collect(),
    })
}

/// The role of a device.
fn role_of(state: &State, ifindex: u32) -> u8 {
    state.tables.interfaces.get(&ifindex).map_or(0, |device| device.role)
}
