//! A running fw, asked and changed as an operator would.

use std::fs;
use std::time::Duration;

use xtask::lab::{BPFFS, HOST, Lab, wait};

/// The policy file of the lab's daemon.
pub(crate) const FILE: &str = "/run/lab/policy.toml";

/// How a command ended, and all that it said.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A policy that lets in ssh and this port.
pub(crate) fn policy(port: u16) -> String {
    format!(
        "[[allow]]\nname = \"ssh\"\nproto = \"tcp\"\nports = [22]\n[[allow]]\nname = \"service {port}\"\nproto = \"tcp\"\nports = [{port}]\n"
    )
}

pub(crate) fn write(lab: &Lab, text: &str) {
    fs::write(lab.path(FILE), text).expect("a policy");
}

/// Runs `fw …` as if it were typed on an SSH connection, or on none.
pub(crate) fn fw(lab: &Lab, arguments: &[&str], ssh: Option<&str>) -> Ended {
    let mut command = lab.fw_command(arguments).expect("a command");
    command.env_remove("SSH_CONNECTION");
    if let Some(ssh) = ssh {
        command.env("SSH_CONNECTION", ssh);
    }
    let output = command.output().expect("fw runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
pub(crate) fn ends(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, code, "{}{}", ended.out, ended.err);
    for part in parts {
        assert!(
            ended.out.contains(part) || ended.err.contains(part),
            "{part:?} is not in: {}{}",
            ended.out,
            ended.err
        );
    }
}

pub(crate) fn reached(lab: &Lab, port: u16) -> bool {
    lab.outside().tcp((HOST, port).into()).expect("a probe").reached()
}

#[track_caller]
pub(crate) fn becomes(lab: &Lab, port: u16, open: bool) {
    let what = format!("port {port} open: {open}");
    wait::until(&what, Duration::from_secs(15), || (reached(lab, port) == open).then_some(()))
        .unwrap_or_else(|error| panic!("{error:#}:\n{}", lab.fw_log()));
}

/// All that the daemon writes into maps but for how it goes, which changes with each pass.
pub(crate) fn maps(lab: &Lab) -> String {
    let all = "for map in settings interfaces subnets networks local_addresses ports denied_hosts denied source_hosts \
               sources endpoints reach links outbound limits names; do bpftool map dump pinned";
    lab.host().script(&format!("{all} {BPFFS}/$map; done; ls {BPFFS}/hooks")).expect("the maps")
}
