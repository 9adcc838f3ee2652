//! Which files may touch the kernel's BPF interface, the Docker client, and iptables.

use super::{
    Tree, Violation,
    code::{Code, string},
};

/// The files of fw-user that may import aya: the datapath, and what it is split into.
const DATAPATH: &[&str] = &[
    "fw-user/src/datapath.rs",
    "fw-user/src/datapath/beside.rs",
    "fw-user/src/datapath/early.rs",
    "fw-user/src/datapath/foreign.rs",
    "fw-user/src/datapath/ground.rs",
    "fw-user/src/datapath/hooks.rs",
    "fw-user/src/datapath/layout.rs",
    "fw-user/src/datapath/log.rs",
    "fw-user/src/datapath/maps.rs",
    "fw-user/src/datapath/maps/lookup.rs",
    "fw-user/src/datapath/sample.rs",
];

/// The file of a benchmark that loads programs which are not fw's.
const BARE: &[&str] = &["fw-user/benches/support/bare.rs"];

/// The file of fw-common that may mention aya: bounded markers, nothing else.
const MARKERS: &[&str] = &["fw-common/src/pod.rs"];

/// The files that talk to Docker.
const DOCKER: &[&str] = &["fw-user/src/docker.rs", "fw-user/src/docker/swarm.rs"];

/// The file that runs nft, and the one that names it as a flavour of iptables.
const NFT: &[&str] = &["fw-user/src/handover/nft.rs", "fw-user/src/handover.rs"];

/// The file that runs iptables and its kin.
const IPTABLES: &[&str] = &["fw-user/src/handover/iptables.rs"];

/// aya is imported by the datapath alone, and marks plain data in fw-common alone.
pub(super) fn aya(tree: &Tree) -> Vec<Violation> {
    let mut found = crate_used(tree, "fw-user/", "aya", &[DATAPATH, BARE].concat());
    found.extend(crate_used(tree, "fw-common/", "aya", MARKERS));
    found
}

/// bollard is used by one module.
pub(super) fn docker_client(tree: &Tree) -> Vec<Violation> {
    crate_used(tree, "fw-user/", "bollard", DOCKER)
}

/// iptables is run by one file: elsewhere no name of its programs stands next to a command.
///
/// Names that no sentence would hold (`iptables-legacy-save`) are refused with or without one.
pub(super) fn iptables(tree: &Tree) -> Vec<Violation> {
    let mut found = missing(tree, IPTABLES);
    for (path, text) in tree.rust("fw-user/src/").filter(|(path, _)| !IPTABLES.contains(path)) {
        let Some(code) = Code::parse(text) else { continue };
        let runs_programs = code.tokens.iter().any(|token| token.text == "Command" && !token.in_test);
        for token in code.tokens.iter().filter(|token| !token.in_test) {
            let Some(program) = string(token).filter(|text| is_iptables(text)) else { continue };
            if runs_programs || program.contains('-') {
                let mend = format!("only {} runs iptables", IPTABLES.join(", "));
                found.push(Violation::new(path, token.line, format!("names the program {program}"), mend));
            }
        }
    }
    found
}

/// nft is run by one file: elsewhere nothing names the program, alone or by its path.
pub(super) fn nft(tree: &Tree) -> Vec<Violation> {
    let mut found = missing(tree, NFT);
    for (path, text) in tree.rust("fw-user/src/").filter(|(path, _)| !NFT.contains(path)) {
        let Some(code) = Code::parse(text) else { continue };
        for token in code.tokens.iter().filter(|token| !token.in_test) {
            if string(token).is_some_and(|text| text.rsplit('/').next() == Some("nft")) {
                let mend = format!("only {} runs nft", NFT[0]);
                found.push(Violation::new(path, token.line, "names the program nft", mend));
            }
        }
    }
    found
}

fn crate_used(tree: &Tree, folder: &str, name: &str, allowed: &[&str]) -> Vec<Violation> {
    let mut found = missing(tree, allowed);
    for (path, text) in tree.rust(folder).filter(|(path, _)| !allowed.contains(path)) {
        let Some(code) = Code::parse(text) else { continue };
        for used in code.paths().into_iter().filter(|used| used.segments[0] == name) {
            let mend = format!("only {} may; go through it", allowed.join(", "));
            found.push(Violation::new(path, used.line, format!("uses {name}"), mend));
        }
    }
    found
}

fn missing(tree: &Tree, paths: &[&str]) -> Vec<Violation> {
    let gone = paths.iter().filter(|path| tree.text(path).is_none());
    gone.map(|path| Violation::new(path, 1, "missing, but named in tidy's list", "write it or mend the list"))
        .collect()
}

fn is_iptables(text: &str) -> bool {
    let program = text.rsplit('/').next().unwrap_or(text);
    let Some(rest) = program.strip_prefix("iptables").or_else(|| program.strip_prefix("ip6tables")) else {
        return false;
    };
    matches!(
        rest,
        "" | "-save"
            | "-restore"
            | "-nft"
            | "-nft-save"
            | "-nft-restore"
            | "-legacy"
            | "-legacy-save"
            | "-legacy-restore"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    const HOMES: [(&str, &str); 18] = [
        ("fw-user/src/datapath.rs", "use aya::Ebpf;"),
        ("fw-user/src/datapath/beside.rs", "use aya::EbpfLoader;"),
        ("fw-user/src/datapath/foreign.rs", "use aya::programs::tc;"),
        ("fw-user/src/datapath/maps/lookup.rs", "use aya::Pod;"),
        ("fw-user/src/datapath/hooks.rs", "use aya::programs::tc;"),
        ("fw-user/src/datapath/ground.rs", "use aya::maps::MapData;"),
        ("fw-user/src/datapath/layout.rs", "use aya::maps::MapInfo;"),
        ("fw-user/src/datapath/log.rs", "use aya::Ebpf;"),
        ("fw-user/src/datapath/maps.rs", "use aya::maps::Array;"),
        ("fw-user/src/datapath/sample.rs", "use aya::maps::MapInfo;"),
        ("fw-common/src/pod.rs", "unsafe impl aya::Pod for X {}"),
        ("fw-user/benches/support/bare.rs", "use aya::Ebpf;"),
        ("fw-user/src/datapath/early.rs", "use aya::programs::Xdp;"),
        ("fw-user/src/docker.rs", "use bollard::Docker;"),
        ("fw-user/src/docker/swarm.rs", "use bollard::Docker;"),
        ("fw-user/src/handover/iptables.rs", "fn f() { Command::new(\"iptables-nft\"); }"),
        ("fw-user/src/handover/nft.rs", "fn f() { search(\"nft\"); }"),
        ("fw-user/src/handover.rs", "const NFT: &str = \"nft\";"),
    ];

    fn with(path: &'static str, text: &'static str) -> Vec<(&'static str, &'static str)> {
        HOMES.into_iter().chain([(path, text)]).collect()
    }

    #[test]
    fn each_crate_is_used_at_home() {
        for rule in [aya, docker_client, iptables, nft] {
            assert_eq!(places(rule, &HOMES), [""; 0]);
        }
    }

    #[test]
    fn aya_elsewhere_is_refused() {
        let files =
            with("fw-user/src/status.rs", "//! aya::x\nuse {crate::a, aya::maps};\nconst S: &str = \"aya\";");
        assert_eq!(places(aya, &files), ["fw-user/src/status.rs:2"]);
        assert_eq!(
            places(aya, &with("fw-common/src/tables.rs", "impl aya::Pod for Y {}")),
            ["fw-common/src/tables.rs:1"]
        );
        assert_eq!(places(aya, &with("fw-user/build.rs", "aya_build::build_ebpf();")), [""; 0]);
    }

    #[test]
    fn the_docker_client_elsewhere_is_refused() {
        let files = with("fw-user/src/inventory.rs", "\nfn f(x: bollard::models::Network) {}");
        assert_eq!(places(docker_client, &files), ["fw-user/src/inventory.rs:2"]);
    }

    #[test]
    fn iptables_elsewhere_is_refused() {
        let beside = "use std::process::Command;\nfn f() { Command::new(\"/usr/sbin/iptables\"); }";
        assert_eq!(places(iptables, &with("fw-user/src/doctor.rs", beside)), ["fw-user/src/doctor.rs:2"]);
        let through = "fn f() {\n run(\"ip6tables-legacy-save\") }";
        assert_eq!(places(iptables, &with("fw-user/src/doctor.rs", through)), ["fw-user/src/doctor.rs:2"]);
        let words = "fn f() { println!(\"iptables is not installed\"); key(\"iptables\") }";
        assert_eq!(places(iptables, &with("fw-user/src/doctor.rs", words)), [""; 0]);
    }

    #[test]
    fn nft_elsewhere_is_refused() {
        let named = "fn f() {\n run(\"/usr/sbin/nft\"); say(\"nft\") }";
        let places = places(nft, &with("fw-user/src/doctor.rs", named));
        assert_eq!(places, ["fw-user/src/doctor.rs:2", "fw-user/src/doctor.rs:2"]);
    }

    #[test]
    fn a_missing_home_is_told() {
        assert_eq!(places(docker_client, &[]), ["fw-user/src/docker.rs:1", "fw-user/src/docker/swarm.rs:1"]);
    }
}
