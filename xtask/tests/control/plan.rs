//! `fw plan`: what would change, and nothing does.

use std::fs;

use xtask::lab::{self, HOST, Lab, Options, SOCKET};

use crate::ground::{FILE, ends, fw, maps, policy};

const PLANNED: &str = "/run/lab/planned.toml";

#[test]
fn a_plan_says_what_would_change_and_changes_nothing() {
    if !lab::available("a_plan_says_what_would_change_and_changes_nothing") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let plan =
        |file: &str, more: &[&str], ssh| fw(&lab, &[&["plan", file, "--docker", SOCKET], more].concat(), ssh);
    fs::write(lab.path(PLANNED), policy(9100)).expect("a policy");
    ends(
        &plan(PLANNED, &[], None),
        3,
        &[
            "nothing is in force",
            "+ rule ssh",
            "+ hook uplink_ingress on eth0",
            "filter: -A DOCKER-USER -o eth0 ",
        ],
    );
    let footprint = lab.footprint().expect("a footprint");
    let daemon = lab.fw_run(&policy(9100)).expect("fw");
    let _web = lab.container("web", &["-p", "8080:80"]).expect("a container");
    let same = || plan(FILE, &[], None).code == 0;
    lab::wait::until("the daemon knows the container", std::time::Duration::from_secs(10), || {
        same().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", plan(FILE, &[], None).out));
    let before = maps(&lab);
    ends(&plan(FILE, &[], None), 0, &["nothing would change"]);
    ends(&plan(PLANNED, &["--json"], None), 0, &["\"would_change\": false"]);

    let other = "[sets]\nlan = [\"198.18.0.0/24\", \"10.0.0.0/8\"]\n[[allow]]\nname = \"web\"\nproto = \"tcp\"\nports = [8080]\nfrom = [\"lan\"]\n[networks.bridge]\nicc = false\n";
    fs::write(lab.path(PLANNED), other).expect("a policy");
    let ssh = Some("198.18.0.2 50000 198.18.0.1 22");
    let _service = lab.host().serve_tcp("[::]:9100", "H").expect("a service");
    let stream = lab.outside().connect((HOST, 9100).into()).expect("a connection");
    let live = stream.local_addr().expect("its address");
    let said = plan(PLANNED, &[], ssh);
    let first = said.out.lines().next().unwrap_or_default();
    assert!(
        first.contains("WARNING") && first.contains("198.18.0.2:50000"),
        "pointed out first: {}",
        said.out
    );
    ends(
        &said,
        3,
        &[
            "+ rule web",
            "- rule ssh",
            "- rule service 9100",
            "+ hook port_egress on ",
            "table sources: 2 new, 0 gone, 0 changed",
            "port 8080, rule web, from lan",
            "live connections that would be cut: 1",
            &format!("from 198.18.0.2, from_port {}", live.port()),
            "port-not-allowed, rule service 9100",
        ],
    );
    // Not every kernel can tell bridges apart.
    assert!(said.out.contains("nft_meta_bridge") != said.out.contains("+ nft bridge fw: meta ibrname "));
    let json = plan(PLANNED, &["--json"], ssh);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["would_change"], true);
    assert_eq!(json["cuts_this_connection"]["peer"], "198.18.0.2:50000");
    assert_eq!(json["rules"]["gone"].as_array().map(Vec::len), Some(2));

    fs::write(lab.path(PLANNED), "[[allow]]\n").expect("a policy");
    ends(&plan(PLANNED, &[], None), 2, &["planned.toml:1:1:", "`name` is missing"]);
    ends(&plan("/run/lab/none.toml", &[], None), 2, &["none.toml"]);
    fs::write(lab.path(PLANNED), format!("{}[tables]\nports = 4096\n", policy(9100))).expect("a policy");
    ends(&plan(PLANNED, &[], None), 3, &["with the next start"]);
    fs::write(lab.path(PLANNED), policy(9100)).expect("a policy");
    ends(&fw(&lab, &["plan", PLANNED, "--docker", "unix:///run/none.sock"], None), 1, &["no docker socket"]);
    assert_eq!(maps(&lab), before, "a plan changed the maps");

    // What is written into iptables, nftables and by XDP is told from what is not.
    let more = format!(
        "fallback = \"closed\"\n[uplink]\nxdp = \"generic\"\n{}[networks.bridge]\nicc = false\n",
        policy(9100)
    );
    fs::write(lab.path(PLANNED), &more).expect("a policy");
    let xdp = "+ hook uplink_xdp on eth0, xdp generic";
    ends(&plan(PLANNED, &[], None), 3, &[xdp, "+ nft inet fw: iifname"]);
    fs::write(lab.path(FILE), &more).expect("a policy");
    ends(&fw(&lab, &["reload"], None), 0, &[]);
    ends(&plan(PLANNED, &[], None), 0, &["nothing would change"]);
    fs::write(lab.path(PLANNED), policy(9100)).expect("a policy");
    let gone = "- hook uplink_xdp on eth0, xdp generic";
    ends(&plan(PLANNED, &[], None), 3, &[gone, "- nft inet fw: all of it"]);
    daemon.terminate().expect("SIGTERM");
    let others =
        "iptables -D DOCKER-USER 1; nft flush chain inet fw forward; nft add rule inet fw forward drop";
    lab.host().script(others).expect("somebody's rules");
    ends(&plan(FILE, &[], None), 3, &["filter: -A DOCKER-USER ", "~ nft inet fw: iifname"]);
    lab.host().script("nft flush chain inet fw forward").expect("nothing is dropped");
    lab.fw_down().expect("fw down");
    lab.docker(&["rm", "-f", "web"]).expect("gone");
    assert_eq!(lab.footprint().expect("a footprint"), footprint);
}
