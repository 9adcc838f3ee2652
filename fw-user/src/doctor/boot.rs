//! Who else writes rules, now or at the next boot: files of rules, ufw, firewalld.

use super::{Finding, Seen, listed};
use crate::handover::{MarkRule, OWN, Save};

/// Files of iptables rules, each with the service that loads it.
pub(super) const SAVED: [(&str, &str); 4] = [
    ("/etc/iptables/rules.v4", "netfilter-persistent.service"),
    ("/etc/iptables/rules.v6", "netfilter-persistent.service"),
    ("/etc/sysconfig/iptables", "iptables.service"),
    ("/etc/sysconfig/ip6tables", "ip6tables.service"),
];

/// Files of nftables, which `nftables.service` loads.
pub(super) const NFTABLES: [&str; 2] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf"];

/// Whether ufw is on.
pub(super) const UFW: &str = "/etc/ufw/ufw.conf";

/// The services that load rules, and fw's own.
pub(super) const SERVICES: [&str; 8] = [
    "fw.service",
    "netfilter-persistent.service",
    "iptables.service",
    "ip6tables.service",
    "nftables.service",
    "firewalld.service",
    "ufw.service",
    "docker.service",
];

pub(super) fn examine(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, service) in SAVED {
        found.extend(seen.files.get(path).and_then(|text| saved(seen, path, service, text)));
    }
    for path in NFTABLES {
        found.extend(seen.files.get(path).into_iter().flat_map(|text| nftables(seen, path, text)));
    }
    found.extend(ufw(seen));
    found.extend(firewalld(seen));
    found
}

/// A file of iptables rules that holds Docker's or fw's.
fn saved(seen: &Seen, path: &str, service: &str, text: &str) -> Option<Finding> {
    let save = Save::parse(text);
    let docker = save.rules().filter(|rule| is_dockers(rule.chain, &rule.conditions())).count();
    let ours = save
        .rules()
        .filter(|rule| OWN.contains(&(rule.table, rule.chain)) || MarkRule::recognise(rule).is_some())
        .count();
    if docker + ours == 0 {
        return None;
    }
    let what = match (docker, ours) {
        (0, ours) => format!("{ours} of fw's"),
        (docker, 0) => format!("{docker} of Docker's"),
        (docker, ours) => format!("{docker} of Docker's and {ours} of fw's"),
    };
    let loaded = seen.enabled.contains(service);
    let found = if loaded {
        let found =
            format!("{path} holds rules that others write anew, {what}, and {service} loads it at boot");
        Finding::weakens("rules-persisted", found)
    } else {
        let found = format!("{path} holds rules that others write anew, {what}; nothing is known to load it");
        Finding::confuses("rules-persisted", found)
    };
    Some(
        found
            .why("loaded, they lead published ports to addresses that other containers have by then, and stand twice")
            .repair(without_others(path))
            .risk(format!(
                "rules of your own for Docker's bridges outside DOCKER-USER go with them; {path}.old keeps all"
            )),
    )
}

/// A line that takes out of a file what Docker and fw write anew. What stands in DOCKER-USER is the administrator's, but for
/// fw's own; so are chains and bridges whose names only begin like ours (`FW-INPUT`, `br-lan`).
fn without_others(path: &str) -> String {
    let mut chains = OWN.map(|(_, chain)| chain.trim_start_matches("FW-")).to_vec();
    chains.sort_unstable();
    chains.dedup();
    let chains = chains.join("|");
    format!(
        "sudo sed -E -i.old -e '/--comment \"?fw\"? -j/d' -e '/(^:|-[Ajg] )FW-({chains})( |$)/d' \
         -e '/(^:|-[Ajg] )DOCKER-USER( |$)/b' -e '/(^:|-[Ajg] )DOCKER/d' \
         -e '/ (docker0|docker_gwbridge|br-[0-9a-f]{{12}}) /d' {path}"
    )
}

/// Chains of Docker's own, and rules for its bridges. `DOCKER-USER` is for administrators: what stands there may be theirs.
fn is_dockers(chain: &str, conditions: &[String]) -> bool {
    let of_docker = |name: &str| name.starts_with("DOCKER") && name != "DOCKER-USER";
    let words = |at: &str| conditions.windows(2).any(|pair| pair[0] == at && of_docker(&pair[1]));
    of_docker(chain) || words("-j") || words("-g")
}

fn nftables(seen: &Seen, path: &str, text: &str) -> Vec<Finding> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let loaded = seen.enabled.contains("nftables.service");
    let mut found = Vec::new();
    let stale = |line: &str| {
        line.contains("docker-bridges")
            || ["chain DOCKER", "jump DOCKER", "table bridge fw", "table inet fw"]
                .iter()
                .any(|of| line.contains(of))
    };
    if let Some(line) = lines().find(|line| stale(line)) {
        let what = format!("{path} holds tables that others write anew (`{line}`)");
        let finding = if loaded {
            Finding::weakens("rules-persisted", format!("{what}, and nftables.service loads it at boot"))
        } else {
            Finding::confuses("rules-persisted", format!("{what}; nftables.service is not enabled"))
        };
        found.push(
            finding
                .why("loaded, they lead published ports to addresses that other containers have by then, and stand twice")
                .repair(format!("sudoedit {path}  # take out the tables of Docker and fw"))
                .risk("none, as long as your own tables stay"),
        );
    }
    let flushes = lines().any(|line| line.trim_end_matches(';').split_whitespace().eq(["flush", "ruleset"]));
    if flushes && loaded {
        found.push(
            Finding::confuses("ruleset-flushed", format!("{path} begins with `flush ruleset`, and nftables.service is enabled"))
                .why("`systemctl restart nftables` takes away Docker's NAT, and fw's tables until the next pass: published ports are reached by nobody until Docker is restarted. fw's filter stays")
                .repair(format!("sudo sed -i.old -e 's/^[[:space:]]*flush ruleset/# &/' {path}"))
                .risk(format!(
                    "loaded twice the file adds its rules twice: begin each table with `table T; delete table T` (one that is made, then deleted). {path}.old keeps the old file"
                )),
        );
    }
    found
}

fn ufw(seen: &Seen) -> Option<Finding> {
    let on = seen.files.get(UFW)?.lines().map(str::trim).any(|line| line.eq_ignore_ascii_case("enabled=yes"));
    on.then(|| {
        Finding::confuses("ufw-enabled", "ufw is enabled (/etc/ufw/ufw.conf)")
            .why("what it says of published ports never held, for Docker forwards them; ports of the host need its leave and fw's both, and `ufw status` shows half")
            .repair("sudo ufw status numbered >ufw.rules  # write what is wanted as [[allow]] rules, then:")
            .repair("sudo fw plan /etc/fw/policy.toml; sudo fw reload --confirm 60s")
            .repair("sudo ufw disable")
            .risk("what ufw alone has closed or let be forwarded is open or dropped then; have ssh in the policy first")
    })
}

fn firewalld(seen: &Seen) -> Option<Finding> {
    let tables = seen.tables.iter().any(|table| table.name.split(' ').nth(1) == Some("firewalld"));
    let chains = seen.rules.iter().any(|(_, text)| Save::parse(text).has("filter", "FORWARD_direct"));
    let runs = tables || chains;
    let enabled = seen.enabled.contains("firewalld.service");
    if !runs && !enabled {
        return None;
    }
    let states: Vec<&str> = [(runs, "its rules stand"), (enabled, "it is started at boot")]
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, what)| *what)
        .collect();
    Some(
        Finding::confuses("firewalld", format!("firewalld: {}", listed(&states)))
            .why("its zones see host ports after fw, and forwarded packets beside Docker; what is open has to be open in both. A reload of it takes iptables' rules away until Docker and fw write them again")
            .repair("sudo firewall-cmd --list-all-zones >firewalld.rules  # write what is wanted as [[allow]] rules, then:")
            .repair("sudo systemctl disable --now firewalld; sudo systemctl restart docker")
            .risk("what firewalld alone has closed is open then; containers stop while Docker restarts, unless it runs with live-restore"),
    )
}
