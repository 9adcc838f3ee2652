//! `fw monitor`: dropped packets as they happen, with the names of devices, networks, containers and rules.

use std::os::fd::AsFd as _;
use std::process::ExitCode;

use clap::Args;
use fw_common::event::Event;
use fw_common::tables::memory::Memory;
use fw_common::tables::name_kind;
use fw_common::{Address, Hook, Reason, Tables as _};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use super::{Outcome, Pins, print};
use crate::datapath::{Directory, Maps};
use crate::plan::State;
use crate::reconcile::devices;
use crate::view::{Names, Row, protocol, row};

/// Options of `fw monitor`.
#[derive(Debug, Args)]
pub struct Options {
    /// Also what was dropped before this command began
    #[arg(long)]
    all: bool,
    /// Only packets from or to this container
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Only packets from or to this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Print one JSON object on each line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pins: Pins,
}

/// Follows the drops until it is interrupted.
pub fn run(options: &Options) -> Outcome {
    let directory = Directory::open(&options.pins.bpffs)?;
    let mut maps = Maps::open(directory.path())?;
    let waiting = maps.take_events();
    let mut view = View { state: maps.read_around(&Memory::default())?, devices: devices()? };
    if options.all {
        show(options, &view, &waiting)?;
    }
    eprintln!("fw: following drops (a sample when there are many); ^C ends");
    loop {
        let fd = maps.events_fd();
        poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        let events = maps.take_events();
        if !events.is_empty() {
            view = View { state: maps.read_around(&Memory::default())?, devices: devices()? };
        }
        show(options, &view, &events)?;
    }
    #[expect(unreachable_code, reason = "the type of the function")]
    Ok(ExitCode::SUCCESS)
}

struct View {
    state: State,
    devices: std::collections::BTreeMap<u32, String>,
}

/// One end of a packet.
struct End {
    container: Option<String>,
    network: Option<String>,
}

fn show(options: &Options, view: &View, events: &[Event]) -> anyhow::Result<()> {
    for event in events {
        let (from, to) = (view.end(&event.source), view.end(&event.destination));
        let concerns = |wanted: &Option<String>, found: [&Option<String>; 2]| {
            wanted.is_none() || found.into_iter().any(|name| name == wanted)
        };
        let wanted = concerns(&options.container, [&from.container, &to.container])
            && concerns(&options.network, [&from.network, &to.network]);
        if !wanted {
            continue;
        }
        let row = view.row(event, &from, &to);
        if options.json {
            print(&format!("{}\n", serde_json::to_string(&row)?))?;
        } else {
            print(&line(&row))?;
        }
    }
    Ok(())
}

impl View {
    fn end(&self, address: &Address) -> End {
        let names = Names { names: &self.state.names };
        let endpoint = self.state.tables.endpoint(address);
        let network = endpoint
            .map(|endpoint| endpoint.network)
            .or_else(|| self.state.tables.subnet(address).map(|subnet| subnet.network));
        End {
            container: endpoint
                .filter(|endpoint| endpoint.port != 0)
                .map(|endpoint| names.of(name_kind::ENDPOINT, endpoint.port)),
            network: network.map(|id| names.of(name_kind::NETWORK, id)),
        }
    }

    fn row(&self, event: &Event, from: &End, to: &End) -> Row {
        let names = Names { names: &self.state.names };
        let device = self.devices.get(&event.ifindex).cloned().unwrap_or_else(|| event.ifindex.to_string());
        row(json!({
            "monotonic_ns": event.time,
            "verdict": if event.observed == 0 { "drop" } else { "would-drop" },
            "reason": Reason::from_number(event.reason).map(Reason::name),
            "hook": Hook::from_number(event.hook).map(Hook::name),
            "device": device,
            "proto": protocol(event.proto),
            "ethertype": event.ethertype,
            "source": event.source.to_string(),
            "source_port": event.source_port,
            "source_container": from.container,
            "source_network": from.network,
            "destination": event.destination.to_string(),
            "destination_port": event.destination_port,
            "destination_container": to.container,
            "destination_network": to.network,
            "rule": (event.rule != 0).then(|| names.of(name_kind::RULE, event.rule)),
            "bytes": event.length,
        }))
    }
}

/// `drop isolation port_ingress if=veth1 tcp a1@front 172.18.0.2:4000 -> b1@back 172.19.0.2:80`
fn line(row: &Row) -> String {
    let text = |key: &str| row.get(key).and_then(|value| value.as_str()).unwrap_or("-").to_owned();
    let number = |key: &str| row.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let end = |side: &str| {
        let name = match (text(&format!("{side}_container")), text(&format!("{side}_network"))) {
            (container, _) if container != "-" => format!("{container} "),
            (_, network) if network != "-" => format!("({network}) "),
            _ => String::new(),
        };
        let port = number(&format!("{side}_port"));
        let address = text(side);
        match (port, address.contains(':')) {
            (0, _) => format!("{name}{address}"),
            (port, true) => format!("{name}[{address}]:{port}"),
            (port, false) => format!("{name}{address}:{port}"),
        }
    };
    let rule = match text("rule") {
        rule if rule == "-" => String::new(),
        rule => format!("  rule={rule}"),
    };
    format!(
        "{} {}  {} if={}  {}  {} -> {}  {} bytes{rule}\n",
        text("verdict"),
        text("reason"),
        text("hook"),
        text("device"),
        text("proto"),
        end("source"),
        end("destination"),
        number("bytes"),
    )
}
