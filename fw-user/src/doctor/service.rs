//! fw itself: its policy file, its daemon, its hooks, and the kernel under it.

use fw_common::Hook;
use fw_common::tables::nat_health;

use super::seen::{InForce, PolicyFile};
use super::{Finding, Seen, listed};
use crate::health::{self, Ailment};
use crate::plan::HookPoint;

pub(super) fn examine(seen: &Seen) -> Vec<Finding> {
    [policy(seen), selectors(seen), daemon(seen), hooks(seen), at_boot(seen), kernel(seen)].concat()
}

fn policy(seen: &Seen) -> Vec<Finding> {
    match &seen.file {
        PolicyFile::Absent { path } => vec![
            Finding::notes("policy-absent", format!("there is no policy file {path}"))
                .why("`fw run` needs one; what follows from a policy was not looked at")
                .repair(format!(
                    "printf 'mode = \"observe\"\\n[[allow]]\\nname = \"ssh\"\\nproto = \"tcp\"\\nports = [22]\\n' | sudo install -D -m 600 /dev/stdin {path}"
                ))
                .risk("none: observing drops nothing"),
        ],
        PolicyFile::Invalid { path, error } => vec![
            Finding::weakens("policy-invalid", format!("the policy file {path} cannot be used: {error}"))
                .why("the daemon keeps the policy before until it ends, and does not start again with this one")
                .repair(format!("fw check {path}"))
                .risk("none: it only says what is wrong, by line"),
        ],
        PolicyFile::Read { path, access, .. } => {
            let mut found = Vec::new();
            if access.mode & 0o022 != 0 {
                found.push(
                    Finding::weakens(
                        "policy-permissions",
                        format!("others than its owner may write the policy file {path} (mode {:o})", access.mode & 0o7777),
                    )
                    .why("who writes it opens the host with the next reload")
                    .repair(format!("sudo chmod go-w {path}"))
                    .risk("none, unless a group is meant to write it"),
                );
            }
            if access.owner != 0 {
                found.push(
                    Finding::weakens(
                        "policy-permissions",
                        format!("the policy file {path} belongs to user {}", access.owner),
                    )
                    .why("who owns it may write it, and opens the host with the next reload")
                    .repair(format!("sudo chown root: {path}"))
                    .risk("that user can no longer change it"),
                );
            }
            found
        }
    }
}

/// Parts of the policy that match nothing, and what else it says that cannot be as it stands.
fn selectors(seen: &Seen) -> Vec<Finding> {
    let Some(desired) = &seen.desired else { return Vec::new() };
    // Of devices it is told apart.
    let of_devices = |warning: &&String| warning.starts_with("uplink ") || *warning == health::NO_UPLINK;
    let warnings = desired.warnings.iter().filter(|warning| !of_devices(warning));
    let finding = |warning: &String| {
        let absent = warning.contains("Docker knows no ");
        let name = if absent { "selector-unmatched" } else { "policy-warning" };
        let finding = Finding::confuses(name, warning.clone());
        let path = match &seen.file {
            PolicyFile::Read { path, .. } => path,
            PolicyFile::Absent { .. } | PolicyFile::Invalid { .. } => "/etc/fw/policy.toml",
        };
        if absent {
            finding
                .why("a name that is written otherwise than Docker has it restricts nobody")
                .repair(format!("docker network ls; docker ps; sudoedit {path}; sudo fw reload"))
                .risk("none: what fits nobody holds for nobody")
        } else {
            finding
                .why("the policy says something that has no effect here")
                .repair(format!("sudoedit {path}; sudo fw plan {path}"))
                .risk("none: `fw plan` changes nothing")
        }
    };
    warnings.map(finding).collect()
}

fn daemon(seen: &Seen) -> Vec<Finding> {
    if seen.force_unseen {
        return Vec::new();
    }
    let Some(InForce { ailment, enforces, nat, .. }) = &seen.in_force else {
        return vec![
            Finding::notes("not-in-force", "nothing of fw is in force on this host")
                .why("Docker's own rules decide alone; what is found besides stands in the way of a start, or stays open")
                .repair("sudo systemctl enable --now fw")
                .risk("only what the policy allows is reachable then: begin with mode = \"observe\""),
        ];
    };
    let mut found = Vec::new();
    if let Some(ailment) = ailment {
        let severity_of = |name| match ailment {
            Ailment::Starting => Finding::notes(name, ailment.to_string()),
            Ailment::Absent | Ailment::Halted { .. } | Ailment::Degraded | Ailment::Overdue => {
                Finding::weakens(name, ailment.to_string())
            }
        };
        let finding = severity_of(ailment.name()).why("the tables are those of another moment than Docker's");
        found.push(match ailment {
            Ailment::Absent => {
                finding.repair("sudo systemctl start fw").risk("none: it takes over without a gap")
            }
            Ailment::Halted { pid } => {
                finding.repair(format!("sudo kill -CONT {pid}")).risk("none, unless a debugger holds it")
            }
            Ailment::Starting | Ailment::Degraded => {
                finding.repair("journalctl -u fw -p warning -n 20").risk("none: it only shows the log")
            }
            Ailment::Overdue => {
                finding.repair("sudo systemctl restart fw").risk("none: traffic stays filtered meanwhile")
            }
        });
    }
    if !enforces {
        found.push(
            Finding::notes("observing", "the policy in force observes: it drops nothing")
                .why("what it would drop is only counted (`fw status`, `fw suggest`)")
                .repair("# write mode = \"enforce\" into the policy file, then: sudo fw reload --confirm 60s")
                .risk("what no rule allows is dropped; --confirm brings the policy before back"),
        );
    }
    if let Some(problem) = health::nat(*nat) {
        let finding = Finding::confuses("nat-unhealthy", problem)
            .why("published ports are not reached as the policy says");
        found.push(match *nat {
            // Docker's rules stand: another start would only write them again.
            nat_health::REFUSED => finding
                .repair("# write \"iptables\": false and \"ip6tables\": false into /etc/docker/daemon.json, or nat.owner = \"docker\" into the policy")
                .risk("Docker's rules are kept until they are taken away as docs/operations.md says; with nat.owner = \"docker\" nothing changes for Docker"),
            nat_health::GONE => finding
                .repair("sudo systemctl restart docker")
                .risk("containers stop meanwhile, unless dockerd runs with live-restore"),
            // The daemon's log says which program refused what; Docker has no part in it.
            _ => finding.repair("journalctl -u fw -p warning -n 20").risk("none: it only shows the log"),
        });
    }
    found
}

/// Hooks that the policy wants, and whose programs do not run.
fn hooks(seen: &Seen) -> Vec<Finding> {
    let (Some(there), Some(desired)) = (&seen.in_force, &seen.desired) else { return Vec::new() };
    // What a daemon that is not there has not hooked is no further finding.
    if there.ailment.is_some() {
        return Vec::new();
    }
    let missing: Vec<String> =
        desired.state.hooks.difference(&there.hooks).map(|point| named(seen, *point)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![
        Finding::weakens(
            "hook-missing",
            format!("programs do not run where they should: {}", listed(&missing)),
        )
        .why("what passes there is not judged, or judged by another hook alone")
        .repair("sudo fw reload")
        .risk("none, if the policy file is the one in force: `sudo fw plan` tells"),
    ]
}

fn named(seen: &Seen, point: HookPoint) -> String {
    let device = seen.host.link(point.ifindex).map_or("?", |link| link.name.as_str());
    format!("{} on {device}", point.hook.name())
}

fn at_boot(seen: &Seen) -> Vec<Finding> {
    if seen.enabled.contains("fw.service") {
        return Vec::new();
    }
    if seen.units.contains("fw.service") {
        return vec![
            Finding::weakens("service-disabled", "the service fw is not started at boot")
                .why("after a reboot Docker's own rules decide alone")
                .repair("sudo systemctl enable fw")
                .risk("none"),
        ];
    }
    if seen.in_force.is_none() {
        return Vec::new();
    }
    vec![
        Finding::notes("service-absent", "systemd knows no service fw")
            .why("unless something else starts `fw run` at boot, Docker's own rules decide alone then")
            .repair("sudo install -m 644 packaging/fw.service /etc/systemd/system/; sudo systemctl enable fw")
            .risk("none"),
    ]
}

fn kernel(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    let release = &seen.kernel.release;
    let version = seen.kernel.version();
    let newer = |finding: Finding| {
        finding
            .repair("# boot a kernel from 6.6 on")
            .risk("that of any new kernel: keep the old one in the boot menu")
    };
    if version.is_some_and(|version| version < (5, 11)) || !seen.kernel.btf {
        let what = if seen.kernel.btf { "is older than 5.11" } else { "has no BTF (CONFIG_DEBUG_INFO_BTF)" };
        found.push(newer(
            Finding::weakens("kernel-too-old", format!("kernel {release} {what}"))
                .why("the programs do not load: fw does not start"),
        ));
    } else if version.is_some_and(|version| version < (6, 6)) {
        found.push(newer(
            Finding::notes("kernel-without-tcx", format!("kernel {release} has no TCX"))
                .why("programs are attached by clsact: others who remove the qdisc remove them, until the next full pass"),
        ));
    }
    if let Some(what) = &seen.kernel.no_bpffs {
        found.push(
            Finding::weakens("bpffs-absent", what.clone())
                .why("maps and links cannot be pinned: fw does not start")
                .repair("sudo mount -t bpf bpf /sys/fs/bpf")
                .risk("none"),
        );
    }
    if seen.sysctl("net/core/bpf_jit_enable") == Some(0) {
        found.push(
            Finding::confuses("jit-off", "the kernel interprets BPF programs (net.core.bpf_jit_enable = 0)")
                .why("every packet costs several times as much")
                .repair("sudo sysctl -w net.core.bpf_jit_enable=1")
                .risk("none; write it into /etc/sysctl.d to keep it"),
        );
    }
    if seen.sysctl("kernel/unprivileged_bpf_disabled") == Some(0) {
        found.push(
            Finding::notes(
                "unprivileged-bpf",
                "every user may load BPF programs (kernel.unprivileged_bpf_disabled = 0)",
            )
            .why("not fw's, but it is a way into the kernel that distributions close")
            .repair("sudo sysctl -w kernel.unprivileged_bpf_disabled=2")
            .risk("programs of users without root that use BPF cease to work"),
        );
    }
    if seen.no_nft {
        found.push(
            Finding::notes(
                "nft-absent",
                "there is no `nft` in PATH or the sbin directories: tables of nftables were not looked at",
            )
            .why("rules that others have made with nftables, if there are any, are not among these findings")
            .repair("sudo apt-get install nftables; sudo fw doctor")
            .risk("none: the package makes no rules unless its service is enabled"),
        );
    }
    if let Some(why) = &seen.no_backstop {
        found.push(
            Finding::weakens("no-backstop", format!("no static table keeps neighbours without icc apart: {why}"))
                .why("two containers that are both new may reach each other until their ports are hooked, and for as long as no program runs")
                .repair("sudo apt-get install nftables; sudo modprobe nft_meta_bridge")
                .risk("none; a kernel without CONFIG_NFT_BRIDGE_META has no such module"),
        );
    }
    found
}

/// Whether programs of uplinks run at all, for checks that lean on them.
pub(super) fn guards_uplinks(seen: &Seen) -> bool {
    let hooks = seen.in_force.as_ref().map(|there| &there.hooks);
    seen.enforces() && hooks.is_some_and(|hooks| hooks.iter().any(|point| point.hook == Hook::UplinkIngress))
}
