//! Metrics, read by the real Prometheus: the page, the alerts and the dashboard that fw ships.

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use xtask::lab::http::{self, Response, encoded};
use xtask::lab::{self, HOST, Lab, OUTSIDE, Options, SOCKET, wait};
use xtask::soak::{flows_told, series, write_flows};

/// Where the shipped scrape configuration looks.
const ADDRESS: &str = "127.0.0.1:9768";
const PROMETHEUS: &str = "127.0.0.1:9090";
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_real_prometheus_reads_what_fw_counts() {
    if !available("the_real_prometheus_reads_what_fw_counts") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let web = lab.container("web", &["-p", "8080:80"]).expect("a container");
    let _web = web.place.serve_tcp("[::]:80", "web").expect("a server");
    let _r = lab.outside().serve_tcp("[::]:443", "R").expect("a server");
    let daemon = lab.fw_run_with(POLICY, &["--metrics", ADDRESS]).expect("fw");
    prometheus(&lab);
    gives(&lab, "fw_ready == 1");

    assert!(lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached());
    assert!(web.place.tcp((OUTSIDE, 443).into()).expect("a probe").reached());
    assert!(!lab.outside().tcp((HOST, 23).into()).expect("a probe").reached());
    spoof(&web);
    wait::until("the pass after the traffic", LIMIT, || (passes(&lab) > 1).then_some(())).expect("passes");

    the_page_is_well_formed_and_true(&lab);
    let drops = gives(&lab, "sum(fw_packets_total{verdict=\"drop\"})");
    assert!(drops.iter().all(|sample| sample.parse::<u64>().is_ok_and(|drops| drops > 0)), "{drops:?}");
    for query in dashboard() {
        gives(&lab, &query);
    }
    alerts_are_evaluated_and_silent_but_one(&lab);
    series_do_not_follow_containers(&lab);
    the_number_of_flows_is_estimated(&lab);

    // Whoever connects and says nothing holds nobody up for long.
    let silent: Vec<TcpStream> = (0..8).map(|_| connect(&lab, ADDRESS)).collect();
    assert_eq!(get(&lab, "/metrics").status, 200);
    drop(silent);
    daemon.terminate().expect("SIGTERM");
    assert!(lab.host().within(|| TcpStream::connect(ADDRESS)).expect("H").is_err());
}

#[test]
fn a_socket_is_for_its_owner_and_goes_with_the_daemon() {
    if !lab::available("a_socket_is_for_its_owner_and_goes_with_the_daemon") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let socket = lab.path("/run/fw/metrics.sock");
    let serving = ["--metrics", "unix:/run/fw/metrics.sock"];

    // Killed, it leaves its socket, which the next one replaces.
    lab.fw_run_with(POLICY, &serving).expect("fw").kill().expect("SIGKILL");
    assert!(socket.exists());
    let daemon = lab.fw_run_with(POLICY, &serving).expect("fw on a stale socket");
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    let page = || {
        let stream = UnixStream::connect(&socket).expect("a connection");
        http::ask(stream, "GET", "/metrics", &[]).expect("an answer").body
    };
    assert_eq!(value(&page(), "fw_policy_reloads_total{result=\"refused\"}"), 0);

    fs::write(lab.path("/run/lab/policy.toml"), "mode = \"guess\"\n").expect("a policy");
    lab.fw(&["reload"]).expect_err("a bad policy");
    fs::write(lab.path("/run/lab/policy.toml"), format!("mode = \"observe\"\n{POLICY}")).expect("a policy");
    let before = value(&page(), "fw_observing");
    lab.fw(&["reload", "--confirm", "60s"]).expect("a trial");
    let trial = page();
    assert_eq!(value(&trial, "fw_policy_reloads_total{result=\"refused\"}"), 1);
    assert_eq!(value(&trial, "fw_policy_reloads_total{result=\"applied\"}"), 1);
    assert_eq!(value(&trial, "fw_policy_on_trial"), 1);
    assert_eq!((before, value(&trial, "fw_observing")), (0, 1));

    // Without Docker's rules published ports lead nowhere.
    lab.host().script("iptables -t nat -F").expect("a flush");
    wait::until("NAT is gone", LIMIT, || (value(&page(), "fw_nat{state=\"gone\"}") == 1).then_some(()))
        .unwrap_or_else(|error| panic!("{error:#}: {}", page()));

    // The maps are taken away under the daemon: what they told is missing, not zero.
    lab.host().script(&format!("mv {0}/counters {0}/hidden", lab::BPFFS)).expect("no counters");
    let blind = page();
    assert_eq!((value(&blind, "fw_tables_readable"), value(&blind, "fw_ready")), (0, 0));
    assert!(!blind.contains("fw_packets_total") && blind.contains("fw_passes_total"), "{blind}");
    lab.host().script(&format!("mv {0}/hidden {0}/counters", lab::BPFFS)).expect("counters");
    assert_eq!(value(&page(), "fw_tables_readable"), 1);
    daemon.terminate().expect("SIGTERM");
    assert!(!socket.exists() && !lab.path("/run/fw").exists(), "the socket and its folder are gone");

    // What is in the way is told before anything is touched.
    let _other = lab.host().serve_tcp(ADDRESS, "other").expect("a server");
    fs::create_dir_all(lab.path("/run/lab/folder")).expect("a folder");
    for (address, parts) in [
        (ADDRESS, ["cannot serve metrics on 127.0.0.1:9768", "in use"]),
        ("198.18.0.1:9768", ["198.18.0.1:9768 is not a loopback address", "127.0.0.1 or [::1]"]),
        ("unix:/run/lab/folder", ["no socket", "another path"]),
        (
            "unix:/run/lab/none/such/x.sock",
            ["cannot serve metrics on unix:/run/lab/none/such", "No such file"],
        ),
    ] {
        let arguments = ["run", "--policy", "/run/lab/policy.toml", "--docker", SOCKET, "--metrics", address];
        let ended = lab.fw_command(&arguments).expect("a command").output().expect("fw runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        let code = if address.starts_with("198") { 2 } else { 1 };
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    lab.fw_down().expect("fw down");
}

#[test]
fn alerts_fire_when_they_should() {
    if !available("alerts_fire_when_they_should") {
        return;
    }
    let folder = packaging("prometheus");
    promtool(&folder, &["check", "rules", "fw.rules.yml"]);
    promtool(&folder, &["test", "rules", "fw.rules.test.yml"]);
    // Each of them has its test.
    let text = |file| fs::read_to_string(folder.join(file)).expect(file);
    let tests = text("fw.rules.test.yml");
    for alert in text("fw.rules.yml").lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(
            tests.contains(&format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\", ")),
            "{alert}"
        );
    }
}

/// `promtool check metrics` has nothing to say, clients get what they ask for, and numbers are those of `fw status`.
fn the_page_is_well_formed_and_true(lab: &Lab) {
    let plain = get(lab, "/metrics");
    assert_eq!(plain.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let file = lab.path("/run/lab/page");
    fs::write(&file, &plain.body).expect("a file");
    let checked = lab.host().run(&["sh", "-c", "promtool check metrics </run/lab/page 2>&1"]);
    assert_eq!(checked.expect("promtool finds no fault"), "");

    let open = ask(lab, "GET", "/metrics", &["Accept: application/openmetrics-text; version=1.0.0"]);
    assert_eq!(
        open.field("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(open.body.ends_with("\n# EOF\n"));
    let head = ask(lab, "HEAD", "/metrics", &[]);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(get(lab, "/").status, 404);
    let post = ask(lab, "POST", "/metrics", &["Content-Length: 0"]);
    assert_eq!((post.status, post.field("allow")), (405, Some("get, head")));

    // What comes in between the two counts at one of them alone.
    let same = || {
        let (page, status) = (get(lab, "/metrics").body, lab.fw_status().ok()?);
        let counted =
            status["counters"].as_array().expect("counters").iter().filter(|row| row["drop"] == true);
        let drops = counted.map(|row| {
            let sample = format!("hook={},verdict=\"drop\",reason={}", row["hook"], row["reason"]);
            (format!("fw_packets_total{{{sample}}}"), row["packets"].as_u64())
        });
        let rules = status["rules"].as_array().expect("rules").iter();
        let rules = rules
            .map(|row| (format!("fw_rule_packets_total{{rule={}}}", row["rule"]), row["packets"].as_u64()));
        let all: Vec<_> = drops.chain(rules).collect();
        let same = all.iter().all(|(name, packets)| Some(value(&page, name)) == *packets);
        same.then_some((page, status, all))
    };
    let (page, status, all) = wait::until("the page and `fw status` say the same", LIMIT, same)
        .unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", lab.fw_drops(), get(lab, "/metrics").body));
    let more = |name: &str| all.iter().any(|(found, packets)| found.contains(name) && *packets > Some(0));
    for name in [
        "hook=\"uplink_ingress\"",
        "hook=\"port_ingress\",verdict=\"drop\",reason=\"spoofed-source\"",
        "rule=\"web\"",
    ] {
        assert!(more(name), "{name}: {all:?}");
    }
    let networks = status["networks"].as_array().expect("networks");
    assert_eq!(value(&page, "fw_networks"), networks.len() as u64);
    let containers = networks.iter().filter_map(|network| network["containers"].as_u64()).sum::<u64>();
    assert_eq!(value(&page, "fw_endpoints"), containers);
    let hooks = status["hooks"].as_array().expect("hooks").iter().filter(|hook| hook["runs"] == true);
    let attached: u64 = samples(&page, "fw_hooks_attached").map(|(_, value)| value).sum();
    assert_eq!(attached, hooks.filter(|hook| hook["hook"] != "uplink_xdp").count() as u64);
    for map in ["ports", "endpoints", "networks"] {
        let rows = lab.fw(&["table", map, "--json"]).expect("fw table");
        let rows: Value = serde_json::from_str(&rows).expect("JSON");
        let entries = value(&page, &format!("fw_map_entries{{map=\"{map}\"}}"));
        assert_eq!(entries, rows.as_array().expect("rows").len() as u64, "{map}");
    }
    let flows: Value =
        serde_json::from_str(&lab.fw(&["table", "flows", "--json"]).expect("flows")).expect("JSON");
    assert_eq!(
        value(&get(lab, "/metrics").body, "fw_flows{map=\"flows\"}"),
        flows.as_array().expect("rows").len() as u64
    );
}

/// Prometheus evaluates each of them; but for the packet that was spoofed, nothing is wrong.
fn alerts_are_evaluated_and_silent_but_one(lab: &Lab) {
    let rules = || -> Option<Vec<Value>> {
        let answer: Value = serde_json::from_str(&prometheus_says(lab, "/api/v1/rules")).ok()?;
        let rules = answer["data"]["groups"][0]["rules"].as_array()?.clone();
        // What was spoofed is seen once it was scraped.
        let spoofing = rules.iter().any(|rule| rule["name"] == "FwSpoofing" && rule["state"] == "firing");
        (spoofing && rules.iter().all(|rule| rule["health"] == "ok")).then_some(rules)
    };
    let rules = wait::until("every alert is evaluated", LIMIT, rules)
        .unwrap_or_else(|error| panic!("{error:#}: {}", prometheus_says(lab, "/api/v1/rules")));
    let shipped = fs::read_to_string(packaging("prometheus").join("fw.rules.yml")).expect("rules");
    assert_eq!(rules.len(), shipped.matches("- alert: ").count());
    let active: Vec<_> =
        rules.iter().filter(|rule| rule["state"] != "inactive").map(|rule| &rule["name"]).collect();
    assert_eq!(active, ["FwSpoofing"], "{rules:?}");
}

fn series_do_not_follow_containers(lab: &Lab) {
    let before = get(lab, "/metrics").body;
    lab.network("more", &[]).expect("a network");
    for (number, network) in ["bridge", "more", "more"].into_iter().enumerate() {
        let port = format!("9{number:03}:80");
        lab.container(&format!("more{number}"), &["--network", network, "-p", &port]).expect("a container");
    }
    let known = || {
        let page = get(lab, "/metrics").body;
        (value(&page, "fw_endpoints") == value(&before, "fw_endpoints") + 3).then_some(page)
    };
    let after = wait::until("the containers are known", LIMIT, known).expect("containers");
    assert_eq!(series(&after), series(&before), "{before}\n{after}");
    println!("series: {} with 1 container, {} with 4", series(&before), series(&after));
}

/// Of a map with more entries than a scrape looks at.
fn the_number_of_flows_is_estimated(lab: &Lab) {
    const MANY: usize = 30_000;
    write_flows(lab, MANY).expect("flows");
    let (entries, live) = flows_told(lab).expect("a page");
    // The error of one in a hundred is that of one estimate in three; five times as much is that of one in a million.
    for (told, is) in [(entries, MANY), (live, MANY / 2)] {
        assert!(told.abs_diff(is) * 20 < is, "{told} are told, and there are {is}");
    }
    assert_ne!(entries, 8192, "as many as were looked at");
}

/// Starts Prometheus with what fw ships, faster than people would have it.
fn prometheus(lab: &Lab) {
    let shipped = packaging("prometheus");
    let scrape = fs::read_to_string(shipped.join("fw.scrape.yml")).expect("the scrape configuration");
    let rules = shipped.join("fw.rules.yml");
    let config = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files:\n  - {}\n{scrape}",
        rules.display()
    );
    fs::write(lab.path("/run/lab/prometheus.yml"), config).expect("a configuration");
    let line = format!(
        "exec prometheus --config.file /run/lab/prometheus.yml --storage.tsdb.path /run/lab/prometheus \
         --web.listen-address {PROMETHEUS} >/run/lab/prometheus.log 2>&1"
    );
    lab.keep_running(lab.host().command("sh").args(["-ec", &line])).expect("prometheus");
    let answers = || lab.host().within(|| TcpStream::connect(PROMETHEUS)).expect("H").is_ok().then_some(());
    wait::until("Prometheus answers", LIMIT, answers).expect("prometheus");
}

/// The values that a query gives; waits until it gives any.
#[track_caller]
fn gives(lab: &Lab, query: &str) -> Vec<String> {
    let mut last = String::new();
    let data = || {
        last = prometheus_says(lab, &format!("/api/v1/query?query={}", encoded(query)));
        let answer: Value = serde_json::from_str(&last).ok()?;
        assert_ne!(answer["errorType"], "bad_data", "{query}: {last}");
        let values =
            answer["data"]["result"].as_array()?.iter().filter_map(|sample| sample["value"][1].as_str());
        let values: Vec<String> = values.map(str::to_owned).collect();
        (!values.is_empty()).then_some(values)
    };
    wait::until(query, LIMIT, data).unwrap_or_else(|error| panic!("{error:#}: {last}"))
}

fn prometheus_says(lab: &Lab, path: &str) -> String {
    http::ask(connect(lab, PROMETHEUS), "GET", path, &[]).expect("an answer of Prometheus").body
}

/// The queries of the shipped dashboard, its variables filled in as Grafana would.
fn dashboard() -> Vec<String> {
    let text = fs::read_to_string(packaging("grafana").join("fw.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36));
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] != "row")
    {
        let targets = panel["targets"].as_array().expect("a panel has targets");
        assert!(
            !targets.is_empty() && panel["gridPos"]["w"].as_u64().is_some_and(|width| width <= 24),
            "{panel}"
        );
        for target in targets {
            let query = target["expr"].as_str().expect("a query");
            let query =
                query.replace("$job", "fw").replace("$instance", ".+").replace("$__rate_interval", "30s");
            assert!(!query.contains('$'), "{query}");
            queries.push(query);
        }
    }
    assert!(queries.len() > 20);
    queries
}

fn get(lab: &Lab, path: &str) -> Response {
    ask(lab, "GET", path, &[])
}

fn ask(lab: &Lab, method: &str, path: &str, fields: &[&str]) -> Response {
    http::ask(connect(lab, ADDRESS), method, path, fields).expect("an answer of fw")
}

fn connect(lab: &Lab, address: &str) -> TcpStream {
    let stream = lab.host().within(|| TcpStream::connect(address)).expect("H").expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// The samples of a family, each with its name and labels as they stand on the page.
fn samples<'p>(page: &'p str, family: &'p str) -> impl Iterator<Item = (&'p str, u64)> {
    let pairs = page.lines().filter_map(|line| line.rsplit_once(' '));
    let its = pairs.filter(move |(name, _)| name.split('{').next() == Some(family));
    its.map(|(name, value)| (name, value.parse().expect("a whole number")))
}

#[track_caller]
fn value(page: &str, name: &str) -> u64 {
    let family = name.split('{').next().expect("a name");
    let found = samples(page, family).find(|(sample, _)| *sample == name);
    found.unwrap_or_else(|| panic!("no {name} in:\n{page}")).1
}

fn passes(lab: &Lab) -> u64 {
    lab.fw_status().expect("fw status")["daemon"]["passes"].as_u64().expect("passes")
}

/// Has a container send a datagram from an address that is not its own.
fn spoof(container: &lab::Container) {
    container.place.script("ip addr add 192.0.2.77/32 dev eth0").expect("an address");
    let socket =
        container.place.within(|| UdpSocket::bind("192.0.2.77:0")).expect("a network").expect("a socket");
    socket.send_to(b"x", (OUTSIDE, 9)).expect("a datagram");
    container.place.script("ip addr del 192.0.2.77/32 dev eth0").expect("no address");
}

fn packaging(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(folder)
        .canonicalize()
        .expect("packaging/")
}

fn promtool(folder: &Path, arguments: &[&str]) {
    let ended = Command::new("promtool").args(arguments).current_dir(folder).output().expect("promtool runs");
    let said = [ended.stdout, ended.stderr].concat();
    assert!(ended.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
}

fn available(test: &str) -> bool {
    let missing: Vec<_> =
        ["prometheus", "promtool"].into_iter().filter(|tool| lab::which(tool).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: {test}: missing: {} (`cargo xtask setup` installs them)", missing.join(", "));
        return false;
    }
    lab::available(test)
}

const POLICY: &str = r#"
[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[[allow]]
name = "ping"
proto = "icmp"
"#;
