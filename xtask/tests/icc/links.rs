//! Docker's legacy `--link` on a default network without icc (D30).

use xtask::lab::{Container, OUTSIDE, Outcome, Place};

use crate::ground::Ground;

#[test]
fn a_link_leads_to_exposed_ports_and_one_way() {
    let Some(mut ground) = Ground::start("a_link_leads_to_exposed_ports_and_one_way") else { return };
    let svr = ground.container("svr", &["--expose=80", "--expose=5000/udp"]);
    let client = ground.container("client", &["--link=svr:alias"]);
    let other = ground.container("other", &[]);
    let _udp = svr.place.serve_udp("[::]:5000", "svr").expect("a server");
    let tcp = |from: &Place, to: &Container, port: u16| {
        from.tcp((to.ip().expect("an address"), port).into()).expect("a probe")
    };
    let _daemon = ground.fw();
    ground.at_both_settings(|nf| {
        for container in [&svr, &client] {
            // Whom they know from before, they must not need to ask.
            container.place.run(&["ip", "neigh", "flush", "all"]).expect("no neighbours");
        }
        let server = svr.ip().expect("an address");
        assert!(tcp(&client.place, &svr, 80).reached_at("svr"), "the exposed port ({nf})");
        assert!(
            client.place.udp((server, 5000).into()).expect("a probe").reached_at("svr"),
            "over UDP ({nf})"
        );
        for (what, from, to, port) in [
            ("a port that is not exposed", &client, &svr, 81),
            ("back", &svr, &client, 80),
            ("not linked", &other, &svr, 80),
            ("to one that is linked", &other, &client, 80),
            ("not linked to", &client, &other, 80),
        ] {
            assert_eq!(tcp(&from.place, to, port), Outcome::Silent, "{what} ({nf})");
        }
        assert_eq!(client.place.ping(server).expect("a ping"), Outcome::Silent, "ping ({nf})");
        assert!(client.place.tcp((OUTSIDE, 443).into()).expect("a probe").reached_at("R"), "outside ({nf})");
    });
    let links = ground.lab.fw(&["table", "links"]).expect("the table");
    assert_eq!(
        links.lines().filter(|line| line.contains("tcp") || line.contains("udp")).count(),
        2,
        "{links}"
    );
    // The link goes with the server, and comes back with its new address.
    ground.lab.docker(&["stop", "-t", "0", "svr"]).expect("docker stop");
    xtask::lab::wait::until("the link is gone", std::time::Duration::from_secs(10), || {
        (!ground.lab.fw(&["table", "links"]).ok()?.contains("tcp")).then_some(())
    })
    .expect("it goes");
}
