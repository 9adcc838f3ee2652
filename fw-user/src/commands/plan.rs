//! `fw plan FILE`: what would change if the policy file were put in force; changes nothing.

mod services;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use fw_common::Hook;
use serde_json::{Value, json};

use super::{Engine, Failure, Outcome, Pins, need_privileges, print, read_policy, runtime};
use crate::connections::{self, Cut};
use crate::conntrack;
use crate::datapath::{
    Attachment, DatapathError, Directory, DirectoryError, Maps, attached_in, would_rebuild,
};
use crate::desired::{Desired, Early, desired};
use crate::difference::{self, TableChange};
use crate::docker::{Docker, DockerSnapshot};
use crate::exposure;
use crate::handover::RuleChange;
use crate::inventory::{Inventory, with_bridges};
use crate::netlink::{self, ContainerLink, HostSnapshot, NetlinkError};
use crate::plan::{HookPoint, State};
use crate::policy::Mode;
use crate::reconcile::{beside_maps, chain, check_uplinks};
use crate::typed_on::{Connection, typed_on, would_cut};
use crate::view::{self, Row};

/// Options of `fw plan`.
#[derive(Debug, Args)]
pub struct Options {
    /// Policy file
    file: PathBuf,
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    pins: Pins,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a plan that changes something ends with.
const WOULD_CHANGE: u8 = 3;

/// Says what would change: exit 0 if nothing would, 3 if something would.
pub fn run(options: &Options) -> Outcome {
    let policy = read_policy(&options.file)?;
    need_privileges()?;
    let host = netlink::snapshot()?;
    check_uplinks(&policy, None, &host.links).map_err(|error| Failure::Usage(error.into()))?;
    let (mut resized, mut observed) = (false, Vec::new());
    let current = match Directory::open(&options.pins.bpffs) {
        Ok(directory) => {
            resized = would_rebuild(&directory, &policy.tables.of_maps())?;
            let maps = Maps::open(directory.path())?;
            let current = in_force(&directory, &maps, &host)?;
            if current.tables.settings.observe != 0 && policy.mode == Mode::Enforce {
                observed = view::counters(&maps)?;
                observed.retain(|row| row.get("drop") == Some(&Value::Bool(true)));
            }
            current
        }
        Err(DirectoryError::Empty { path }) => {
            eprintln!("fw: nothing is in force in {}: all of it would be new", path.display());
            State::default()
        }
        Err(error) => return Err(error.into()),
    };
    let (docker, links) = runtime()?.block_on(ask_docker(&options.engine.docker))?;
    let docker = with_bridges(docker, &host);
    let inventory = Inventory::new(Some(&docker), &host, &links, &policy.static_networks);
    let wanted = desired(&policy, &inventory, &current).map_err(|error| Failure::Usage(error.into()))?;
    let connection = typed_on();
    let (early_new, early_gone) = early(&options.pins.bpffs, &wanted, &host)?;
    let (beside, untold) = beside_maps(&wanted, policy.marks.bit);
    let mut warnings = [wanted.warnings, untold].concat();
    if resized {
        warnings.push("tables of other sizes take effect with the next start of `fw run`".to_owned());
    }
    let open = conntrack::snapshot().unwrap_or_else(|error| {
        warnings.push(format!("cannot tell which live connections would be cut: {}", chain(&error)));
        Vec::new()
    });
    let cut = connections::cut(&current, &wanted.state, &open);
    let read = services::Read::new(&docker, &mut warnings);
    let changed = exposure::changed(&current, &wanted.state, read.seen(&inventory, &docker.containers));
    let report = Report {
        resized,
        tables: difference::between(&current, &wanted.state),
        rules: (difference::rules(&wanted.state, &current), difference::rules(&current, &wanted.state)),
        attached: [hooks(&wanted.state, &current, &host), early_new].concat(),
        detached: [hooks(&current, &wanted.state, &host), early_gone].concat(),
        beside,
        own: connection.filter(|connection| would_cut(&wanted.state.tables, connection)),
        services: services::rows(&changed, (&current, &wanted.state), &open, &cut),
        elsewhere: services::elsewhere(&changed, &cut),
        observed,
        cut: cut.iter().map(of_connection).collect(),
        warnings,
    };
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report.json())?))?;
    } else {
        print(&report.text())?;
    }
    Ok(if report.changes() { ExitCode::from(WOULD_CHANGE) } else { ExitCode::SUCCESS })
}

/// What the maps and hooks of this directory are now.
pub(super) fn in_force(directory: &Directory, maps: &Maps, host: &HostSnapshot) -> Result<State, Failure> {
    let attached = attached_in(directory.path(), &host.links)?;
    // Early drop is no part of a plan: it drops what the hook behind it would drop.
    let hooks = attached.into_iter().filter(|(point, (_, alive))| *alive && point.hook != Hook::UplinkXdp);
    Ok(State { hooks: hooks.map(|(point, _)| point).collect(), ..maps.read()? })
}

/// Docker's networks and containers, and the links of these.
pub(super) async fn ask_docker(
    url: &str,
) -> anyhow::Result<(DockerSnapshot, BTreeMap<u32, Vec<ContainerLink>>)> {
    let docker =
        Docker::connect(url).await?.snapshot().await.context("cannot ask Docker what runs on this host")?;
    let pids = docker.containers.iter().map(|container| container.pid).filter(|pid| *pid != 0).collect();
    let mut links = BTreeMap::new();
    for (pid, found) in netlink::links_of_each(pids).await? {
        match found {
            Ok(found) => _ = links.insert(pid, found),
            Err(NetlinkError::ProcessGone { .. }) => {}
            Err(error) => eprintln!("fw: cannot see the links of process {pid}: {}", chain(&error)),
        }
    }
    Ok((docker, links))
}

/// Hooks that only one of the two has, with the names of their devices.
fn hooks(only_in: &State, not_in: &State, host: &HostSnapshot) -> Vec<String> {
    let name = |point: &HookPoint| {
        let device =
            host.link(point.ifindex).map_or(format!("({})", point.ifindex), |link| link.name.clone());
        format!("{} on {device}", point.hook.name())
    };
    only_in.hooks.difference(&not_in.hooks).map(name).collect()
}

/// Devices on which XDP would begin to drop early, and where it would cease to. Whether a driver can is known when it
/// is asked: where the policy leaves it to the driver, what is not there counts as no change.
fn early(
    directory: &Path,
    wanted: &Desired,
    host: &HostSnapshot,
) -> Result<(Vec<String>, Vec<String>), DatapathError> {
    let mut there = BTreeMap::new();
    for (point, (how, alive)) in attached_in(directory, &host.links)? {
        if point.hook == Hook::UplinkXdp && alive {
            there.insert(point.ifindex, how);
        }
    }
    let name = |ifindex: u32, how: Attachment| {
        let device = host.link(ifindex).map_or(format!("({ifindex})"), |link| link.name.clone());
        format!("{} on {device}, {}", Hook::UplinkXdp.name(), how.name())
    };
    let needed = wanted.early.iter().filter(|(ifindex, mode)| {
        there.get(ifindex) != Some(&Attachment::from(**mode))
            && **mode != Early::IfNative
            // Somebody else's is left alone.
            && (there.contains_key(ifindex) || host.link(**ifindex).is_some_and(|link| link.xdp.is_empty()))
    });
    let new = needed.map(|(ifindex, mode)| name(*ifindex, Attachment::from(*mode))).collect();
    let stays = |ifindex: &u32, how: Attachment| {
        wanted.early.get(ifindex).is_some_and(|mode| Attachment::from(*mode) == how)
    };
    let gone = there.iter().filter(|(ifindex, how)| !stays(ifindex, **how));
    Ok((new, gone.map(|(ifindex, how)| name(*ifindex, *how)).collect()))
}

/// A connection that would be cut, and why.
fn of_connection(cut: &Cut) -> Row {
    let tuple = &cut.connection.original;
    view::row(json!({
        "proto": view::protocol(tuple.protocol),
        "from": tuple.source.to_string(),
        "from_port": tuple.source_port,
        "to": tuple.destination.to_string(),
        "to_port": tuple.destination_port,
        "hook": cut.hook.name(),
        "reason": cut.reason.name(),
        "rule": cut.rule,
        "container": cut.container,
    }))
}

struct Report {
    /// `[tables]` asks for maps of other sizes.
    resized: bool,
    tables: Vec<TableChange>,
    /// New rules, and those that go.
    rules: (Vec<String>, Vec<String>),
    attached: Vec<String>,
    detached: Vec<String>,
    /// Rules in iptables and tables of nftables.
    beside: Vec<RuleChange>,
    /// The connection on which this is typed, if it is one of those.
    own: Option<Connection>,
    /// Services that become reachable, or cease to be.
    services: Vec<Row>,
    /// Cut connections to none of those, by where and why.
    elsewhere: Vec<Row>,
    /// What was only observed so far, and would be dropped.
    observed: Vec<Row>,
    /// Live connections that would be cut.
    cut: Vec<Row>,
    warnings: Vec<String>,
}

impl Report {
    fn changes(&self) -> bool {
        let hooks = self.attached.len() + self.detached.len();
        self.resized || !self.tables.is_empty() || hooks > 0 || !self.beside.is_empty()
    }

    fn json(&self) -> Value {
        json!({
            "would_change": self.changes(),
            "cuts_this_connection": self.own,
            "services": self.services,
            "cuts": self.cut,
            "cuts_elsewhere": self.elsewhere,
            "observed": self.observed,
            "rules": {"new": self.rules.0, "gone": self.rules.1},
            "tables": self.tables,
            "hooks": {"attached": self.attached, "detached": self.detached},
            "netfilter": self.beside,
            "warnings": self.warnings,
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if let Some(connection) = self.own {
            text += &format!(
                "WARNING: the connection on which you type, {connection}, would be cut and could not be opened again\n\n"
            );
        }
        for warning in &self.warnings {
            text += &format!("warning: {warning}\n");
        }
        if !self.changes() {
            return text + "nothing would change\n";
        }
        for (sign, names) in [('+', &self.rules.0), ('-', &self.rules.1)] {
            for name in names {
                text += &format!("{sign} rule {name}\n");
            }
        }
        for (sign, hooks) in [('+', &self.attached), ('-', &self.detached)] {
            for hook in hooks {
                text += &format!("{sign} hook {hook}\n");
            }
        }
        for RuleChange { place, table, change, rule } in self.beside.iter().take(MOST_RULES) {
            text += &format!("{} {place} {table}: {rule}\n", change.sign());
        }
        if self.beside.len() > MOST_RULES {
            text += &format!("  and {} more rules (--json has all)\n", self.beside.len() - MOST_RULES);
        }
        text += &services::text(&self.services, &self.elsewhere, &self.observed);
        if !self.cut.is_empty() {
            text += &format!("\nlive connections that would be cut: {}\n", self.cut.len());
            for row in self.cut.iter().take(MOST_SHOWN) {
                text += &format!("  {}\n", view::words(row));
            }
            if self.cut.len() > MOST_SHOWN {
                text += &format!("  and {} more (--json has all)\n", self.cut.len() - MOST_SHOWN);
            }
        }
        for TableChange { table, count, gone, new } in &self.tables {
            text += &format!(
                "\ntable {table}: {} new, {} gone, {} changed\n",
                count.added, count.removed, count.changed
            );
            for (sign, rows) in [('-', gone), ('+', new)] {
                for row in rows.iter().take(MOST_SHOWN) {
                    text += &format!("  {sign} {}\n", view::words(row));
                }
                if rows.len() > MOST_SHOWN {
                    text += &format!("  {sign} and {} more (--json has all)\n", rows.len() - MOST_SHOWN);
                }
            }
        }
        text
    }
}

/// Rows of one table and kind that are printed; a range of ports is thousands of them.
const MOST_SHOWN: usize = 20;

/// Rules in iptables and nftables that are printed; a published port is one or two of them.
const MOST_RULES: usize = 100;
