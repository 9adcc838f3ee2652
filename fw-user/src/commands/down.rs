//! `fw down`: rules first, then hooks, then maps; what was there before `fw run` is all that is left.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use fw_common::tables::nat_health;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Failure, Outcome, Pins, is_fw, need_privileges};
use crate::connections;
use crate::conntrack;
use crate::control;
use crate::datapath::{self, Directory, DirectoryError, Lock, Maps};
use crate::handover::{HandoverError, Iptables, Nft};
use crate::netlink::NetlinkError;
use crate::plan::State;
use crate::reconcile::{chain, devices};

/// Options of `fw down`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pins: Pins,
}

/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// Takes everything away, going on after a failure and reporting all of them.
pub fn run(options: &Options) -> Outcome {
    need_privileges()?;
    let directory = match Directory::open(&options.pins.bpffs) {
        Ok(directory) => directory,
        // Somebody may have removed the pins, and our rules are still there.
        Err(DirectoryError::Empty { path }) if options.pins.is_default() => {
            let errors = remove_rules();
            eprintln!("fw: nothing is in force in {}", path.display());
            return ended(&errors, "fw: no rules of fw are left, either");
        }
        // A name mistyped must not take the rules of the fw that runs here.
        Err(DirectoryError::Empty { path }) => {
            eprintln!(
                "fw: nothing is in force in {}; rules in iptables and nftables were not touched, `fw down` without --bpffs \
                 takes away those that nobody needs any more",
                path.display()
            );
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error.into()),
    };
    let socket = control::socket(directory.path()).ok();
    // Whichever version runs on it.
    let daemon = datapath::occupant(directory.path()).unwrap_or_default();
    // What the tables allowed is known only as long as they are there.
    let tables = Maps::open(directory.path()).and_then(|maps| maps.read());
    let lock = take_over(&directory, daemon.pid)?;
    let mut errors = remove_rules();
    match devices() {
        Ok(devices) => {
            errors.extend(datapath::remove_all(directory.path(), &devices).iter().map(|error| chain(error)));
        }
        Err(error) => errors.push(chain(&error)),
    }
    match tables {
        Ok(state) => errors.extend(cut(&state).err().map(|error| chain(&error))),
        // Another layout, or a pin that is gone: once more would find no more.
        Err(error) => eprintln!("fw: connections between networks may go on: {}", chain(&error)),
    }
    errors.extend(directory.remove_pins(daemon.made_directory));
    drop(lock);
    if let Some(socket) = socket {
        // That of a daemon that was killed.
        control::remove(&socket);
    }
    let well = if daemon.nat == nat_health::STANDS {
        "fw: down; nobody translates or filters for containers now: start dockerd without --iptables=false"
    } else {
        "fw: down; Docker's own rules are in force again"
    };
    ended(&errors, well)
}

/// Takes away the rules in iptables and the tables in nftables; what goes wrong comes back as text.
fn remove_rules() -> Vec<String> {
    let mut errors = Vec::new();
    match Iptables::find().and_then(|iptables| iptables.remove()) {
        Ok(outcome) => {
            for place in &outcome.unreadable {
                eprintln!(
                    "fw: iptables cannot show all of {place:?}; look there for rules with the comment fw"
                );
            }
        }
        Err(HandoverError::NoTool) => {
            eprintln!("fw: there is no iptables to look for rules with the comment fw with");
        }
        Err(error) => errors.push(chain(&error)),
    }
    match Nft::find() {
        Some(nft) => errors.extend(nft.remove().err().map(|error| chain(&error))),
        None => {
            eprintln!(
                "fw: there is no `nft` to look for `table bridge fw` and `table inet fw` with; if it was removed, \
                 reboot to be rid of them"
            );
        }
    }
    errors
}

fn ended(errors: &[String], well: &str) -> Outcome {
    if errors.is_empty() {
        eprintln!("{well}");
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::Failed(anyhow::anyhow!(
        "not everything could be taken away; repair this and run `fw down` again:\n  {}",
        errors.join("\n  ")
    )))
}

/// Ends the connections that Docker's rules would not have let begin: as established ones they would let them go on.
/// Comes after rules and hooks, so that none begins anew.
fn cut(state: &State) -> Result<(), NetlinkError> {
    let connections = conntrack::snapshot()?;
    let beyond = connections::beyond_docker(state, &connections);
    let cut = conntrack::remove(beyond)?;
    if cut != 0 {
        eprintln!("fw: cut {cut} connections that only fw had allowed");
    }
    Ok(())
}

/// The lock on the directory; a daemon that holds it is asked to end (SIGTERM) and waited for.
fn take_over(directory: &Directory, pid: u32) -> Result<Lock, Failure> {
    match directory.lock() {
        Err(DirectoryError::Locked { .. }) => {}
        other => return Ok(other?),
    }
    let pid = match i32::try_from(pid) {
        Ok(number) if is_fw(pid) => Pid::from_raw(number),
        // It holds the lock but has not said who it is: it is starting.
        _ => return Ok(directory.lock()?),
    };
    kill(pid, Signal::SIGTERM)?;
    let begun = Instant::now();
    loop {
        match directory.lock() {
            Err(DirectoryError::Locked { .. }) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(DirectoryError::Locked { .. }) => {
                return Err(Failure::Failed(anyhow::anyhow!(
                    "the daemon (process {pid}) did not end within {} s of SIGTERM; end it, then run `fw down` again",
                    PATIENCE.as_secs()
                )));
            }
            other => return Ok(other?),
        }
    }
}
