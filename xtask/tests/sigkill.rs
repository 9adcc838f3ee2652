//! fw killed with SIGKILL: what is pinned goes on filtering, and the next fw takes it over.

use xtask::lab::{self, HOST, Lab, Options, POLICY, Town, ask, doors};

#[test]
fn traffic_stays_filtered_without_a_daemon() {
    if !lab::available("traffic_stays_filtered_without_a_daemon") {
        return;
    }
    let lab = Lab::start(Options { dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    let town = Town::build(&lab).expect("the town");
    doors::all_open(&lab, &town, "before fw").expect("stock Docker");

    let daemon = lab.fw_run(POLICY).expect("fw");
    doors::held(&lab, &town, "fw runs").expect("fw holds");
    let mut flow = lab.outside().connect((HOST, 8080).into()).expect("a connection to the published port");
    assert!(ask(&mut flow).reached_at("a1"));

    daemon.kill().expect("SIGKILL");
    assert!(ask(&mut flow).reached_at("a1"), "the connection that was open broke with the daemon");
    doors::held(&lab, &town, "fw was killed").expect("the pins hold");

    let daemon = lab.fw_run(POLICY).expect("fw once more");
    assert!(ask(&mut flow).reached_at("a1"), "the connection that was open broke when fw came back");
    doors::held(&lab, &town, "fw is back").expect("fw holds");
    daemon.terminate().expect("SIGTERM");
    doors::held(&lab, &town, "fw was ended").expect("the pins hold");
    lab.fw_down().expect("fw down");
    doors::all_open(&lab, &town, "after fw down").expect("stock Docker again");
}
