//! (q) The container image: unpacked and run as its user on a read-only root against a real control plane, the same when built again,
//! and taken by a registry.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use eventpulse_e2e::START;
use eventpulse_env::{ControlPlane, ControlPlaneOptions, Environment, Process, Spec, Tool, Tools, free_port};
use eventpulse_testkit::{client, eventpulse::find_binary};
use serde_json::Value;

/// What a container runtime does with it, by util-linux: the root read-only, one writable directory, the image's user and no way to
/// become another. Loopback is this machine's.
const RUN: &str = "set -eu; user=$1; root=$2; data=$3; kubeconfig=$4; shift 4
mount --bind \"$root\" \"$root\"
mount --bind \"$data\" \"$root/var/lib/eventpulse\"
mount --bind \"$kubeconfig\" \"$root/tmp\"
mount -o remount,bind,ro \"$root/tmp\"
mount -o remount,bind,ro \"$root\"
if [ \"$user\" = 0 ]; then exec setpriv --no-new-privs chroot \"$root\" \"$@\"; fi
exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid --inh-caps=-all chroot --userspec=$user:$user \"$root\" \"$@\"";

/// Only root can become the image's user. Anybody else runs it as themselves, in a user namespace.
fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn contained(name: &str, dir: &Path, root: &Path, args: &[String]) -> Spec {
    let text = |path: &Path| path.display().to_string();
    let (namespaces, user) =
        if is_root() { (&["--mount"][..], "65532") } else { (&["--map-root-user", "--mount"][..], "0") };
    Spec::new(name, "unshare", dir)
        .args(namespaces.iter().copied())
        .args(["--propagation=private", "sh", "-c", RUN, "sh", user])
        .args([text(root), text(&dir.join("data")), text(&dir.join("config"))])
        .args(args.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn q_the_image_runs_as_its_user_on_a_read_only_root_and_is_the_same_when_built_again() {
    let tools = Tools::new();
    let environment =
        Environment::builder("e2e-q-image").control_plane(ControlPlaneOptions::default()).start().await.unwrap();
    let (plane, dir) = (environment.plane(), environment.dir());
    let binary = find_binary().unwrap();
    let said = tools.build_image(&binary, &dir.join("image")).await.unwrap();
    println!("{said}");
    let again = tools.build_image(&binary, &dir.join("again")).await.unwrap();
    assert_eq!(said.lines().next(), again.lines().next(), "the same input gives the same digest");

    let image = |program: &str, args: &[&str]| tools.run(Tool::Image, program, dir, args).unwrap();
    let layout = format!("{}:{}", dir.join("image/oci").display(), env!("CARGO_PKG_VERSION"));
    let bundle = dir.join("bundle");
    let bundle_text = bundle.display().to_string();
    let rootless: &[&str] = if is_root() { &[] } else { &["--rootless"] };
    image("umoci", &[&["unpack"], rootless, &["--image", &layout, &bundle_text]].concat());
    let config: Value = serde_json::from_slice(&std::fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], serde_json::json!(["/usr/bin/eventpulse"]));
    assert_eq!((&config["process"]["user"]["uid"], &config["process"]["user"]["gid"]), (&65532.into(), &65532.into()));
    let root = bundle.join("rootfs");
    for shell in ["bin/sh", "usr/bin/sh", "bin/bash", "usr/bin/dpkg", "usr/bin/env"] {
        assert!(!root.join(shell).exists(), "{shell} is in the image");
    }

    contained_it_becomes_ready(plane, dir, &root).await;
    a_registry_takes_it(&tools, dir).await;
    environment.stop().await;
}

async fn contained_it_becomes_ready(plane: &ControlPlane, dir: &Path, root: &Path) {
    // As a container: the account's own user, a read-only root, a writable data directory.
    std::fs::create_dir(dir.join("data")).unwrap();
    std::fs::create_dir(dir.join("config")).unwrap();
    let kubeconfig = std::fs::read_to_string(plane.kubeconfig()).unwrap();
    let authority = std::fs::read(dir.join("ca.crt")).unwrap();
    std::fs::write(dir.join("config/ca.crt"), authority).unwrap();
    let there = kubeconfig.replace(&dir.join("ca.crt").display().to_string(), "/tmp/ca.crt");
    std::fs::write(dir.join("config/kubeconfig"), there).unwrap();
    let owned =
        Command::new("chown").args(["-R", "65532:65532"]).arg(dir.join("data")).arg(dir.join("config")).status();
    assert!(owned.unwrap().success());
    // Nobody else can enter the environment's directory; the mounts are made before the user is given up.
    plane
        .run_kubectl(&["apply", "--server-side", "-f", &eventpulse_e2e::root().join("crds").display().to_string()])
        .unwrap();
    let entry = |args: &[&str]| {
        std::iter::once("/usr/bin/eventpulse").chain(args.iter().copied()).map(str::to_owned).collect::<Vec<_>>()
    };
    for (args, says) in [
        (&["--help"][..], "Usage: eventpulse"),
        (&["crds"], "kind: CustomResourceDefinition"),
        (&["check-config", "--data-dir=/var/lib/eventpulse"], "embedded"),
    ] {
        let process = Process::spawn(contained(args[0], dir, root, &entry(args))).unwrap();
        let log = dir.join(format!("{}.log", args[0]));
        let end = Instant::now() + START;
        while process.exited().is_none() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let text = std::fs::read_to_string(log).unwrap();
        assert!(process.exited().is_some_and(|status| status.success()), "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
    let (listen, admin) = (free_port(), free_port());
    let args = entry(&[
        "run",
        "--data-dir=/var/lib/eventpulse",
        &format!("--listen=127.0.0.1:{listen}"),
        &format!("--admin-listen=127.0.0.1:{admin}"),
    ]);
    let spec = contained("eventpulse", dir, root, &args).env("KUBECONFIG", "/tmp/kubeconfig");
    let process = Process::spawn(spec).unwrap();
    let url = format!("http://127.0.0.1:{admin}/readyz");
    let ready = async || client::get(&url).await.is_ok_and(|reply| reply.is_success());
    process.wait_for("/readyz answering 200", START, ready).await.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line =
        |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    if is_root() {
        assert_eq!(line("Uid:"), ["Uid:", "65532", "65532", "65532", "65532"]);
        assert_eq!((line("CapEff:")[1], line("CapPrm:")[1]), ("0000000000000000", "0000000000000000"));
    }
    assert_eq!(line("NoNewPrivs:")[1], "1");
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", process.pid())).unwrap();
    assert!(mounts.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(" ro,")), "{mounts}");
    assert!(process.stop(START).await.is_some_and(|status| status.success()), "it ends well");
}

async fn a_registry_takes_it(tools: &Tools, dir: &Path) {
    let image = |program: &str, args: &[&str]| tools.run(Tool::Image, program, dir, args).unwrap();
    // A registry takes it, and gives the same back.
    let (registry, port) = (dir.join("registry"), free_port());
    std::fs::create_dir(&registry).unwrap();
    let serve =
        ["registry", "serve", "--address", &format!("127.0.0.1:{port}"), "--disk", &registry.display().to_string()];
    let crane = tools.program(Tool::Image, "crane").unwrap();
    let server = Process::spawn(Spec::new("registry", crane, dir).args(serve.map(str::to_owned))).unwrap();
    server.wait_for_port(port, START).await.unwrap();
    let name = format!("127.0.0.1:{port}/eventpulse:{}", env!("CARGO_PKG_VERSION"));
    let archive = dir.join(format!("image/eventpulse-{}.tar", env!("CARGO_PKG_VERSION")));
    image("crane", &["push", &archive.display().to_string(), &name]);
    image("crane", &["validate", "--remote", &name]);
    let config: Value = serde_json::from_str(&image("crane", &["config", &name])).unwrap();
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "eventpulse");
    server.stop(Duration::from_secs(10)).await;
}
