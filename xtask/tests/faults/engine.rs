//! Faults of Docker: it ends, comes back, and its socket is not what it was.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Instant;

use xtask::lab::liar::{Liar, Manner};

use crate::story::{SOCKET, Shown, Story};

pub(crate) fn rows(story: &mut Story<'_>) {
    story.row("Z03, L03", "dockerd restarts, live-restore", |story| restarts(story, "TERM"));
    story.row("Z04, L03", "dockerd is killed and comes back, live-restore", |story| restarts(story, "KILL"));
    story.row("Z03", "dockerd is halted", |story| {
        story.ground.lab.signal_docker("STOP").expect("a signal");
        let told = story.tells("Docker: ");
        story.ground.lab.signal_docker("CONT").expect("a signal");
        Shown { told: Some(told), healed: Some(story.heals()) }
    });
    story.row("Z05", "the socket is removed and comes back", |story| {
        story.liar.take();
        let told = story.tells("there is no docker socket");
        story.liar = Some(Liar::start(&story.ground.lab, SOCKET).expect("a proxy"));
        Shown { told: Some(told), healed: Some(follows(story, "back")) }
    });
    story.row("Z05", "the socket is replaced by a new one, the old one goes on listening", |story| {
        let old = story.liar.take();
        old.as_ref().expect("the proxy runs").set(Manner::StalledEvents);
        story.liar = Some(Liar::start(&story.ground.lab, SOCKET).expect("a proxy"));
        let healed = follows(story, "replaced");
        // The old one would take the socket's name with it.
        let lab = &story.ground.lab;
        lab.host().script(&format!("mv {SOCKET} {SOCKET}.new")).expect("mv");
        drop(old);
        lab.host().script(&format!("mv {SOCKET}.new {SOCKET}")).expect("mv");
        Shown { told: None, healed: Some(healed) }
    });
    story.row("Z05", "the socket becomes a link to another, and may not be used for a while", |story| {
        let path = story.ground.lab.path(SOCKET);
        fs::rename(&path, path.with_extension("elsewhere")).expect("a rename");
        symlink("docker.elsewhere", &path).expect("a link");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).expect("a mode");
        let healed = follows(story, "linked");
        fs::remove_file(&path).expect("a removal");
        fs::rename(path.with_extension("elsewhere"), &path).expect("a rename");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o660)).expect("a mode");
        Shown { told: None, healed: Some(healed) }
    });
    story.row("L04", "a container is removed and run again on the same port at once", |story| {
        let lab = &story.ground.lab;
        let begun = Instant::now();
        for round in 0..3 {
            let name = format!("again{round}");
            let (container, _server) = story.ground.newcomer(&name, 8101);
            story.knows(&container, 8101);
            lab.docker(&["rm", "-f", &container.name]).expect("docker");
        }
        Shown { told: None, healed: Some(begun.elapsed() / 3) }
    });
}

/// fw ought not to notice that it is another dockerd.
fn restarts(story: &Story<'_>, signal: &str) -> Shown {
    let ground = story.ground;
    let lab = &ground.lab;
    lab.signal_docker(signal).expect("a signal");
    let told = story.tells("Docker: ");
    assert!(ground.opens(), "containers go on without dockerd");
    lab.docker_again(&[]).expect("dockerd");
    let healed = story.heals();
    let taken = lab.docker(&["run", "--rm", "-p=8080:80", "--network=A", "fwlab", "true"]);
    assert!(taken.is_err(), "port 8080 is taken");
    let new = lab.container(&format!("after-{signal}"), &["--network=A"]).expect("a container");
    assert_ne!(new.v4, ground.a1.v4);
    assert!(new.place.ping(ground.a1.ip().expect("an address")).expect("a ping").reached(), "old and new");
    lab.docker(&["rm", "-f", &new.name]).expect("docker");
    Shown { told: Some(told), healed: Some(healed) }
}

/// How long it takes until a new container is known.
pub(crate) fn follows(story: &Story<'_>, name: &str) -> std::time::Duration {
    let (container, _server) = story.ground.newcomer(name, 8102);
    let took = story.knows(&container, 8102);
    story.ground.lab.docker(&["rm", "-f", &container.name]).expect("docker");
    took
}
