use super::*;
use crate::testing::spec;
use caelum_base::ErrorKind;
use std::time::{Duration, Instant};

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";

struct NoImages;

#[async_trait]
impl ImageSource for NoImages {
    async fn fetch(&self, _: &str, _: &std::path::Path) -> Result<()> {
        Ok(())
    }
}

fn host(dir: Option<&std::path::Path>) -> SimHost {
    SimHost::open(SimConfig { state_dir: dir.map(Into::into), ..SimConfig::default() }, Env::system()).unwrap()
}

#[tokio::test]
async fn guests_outlive_the_host_object_and_spawns_are_cheap() {
    let dir = tempfile::tempdir().unwrap();
    let one = host(Some(dir.path()));
    let started = Instant::now();
    for i in 0..200 {
        one.spawn(&spec(&format!("aaaaaaaa-0000-4000-8000-{i:012}")), &NoImages).await.unwrap();
    }
    eprintln!("t= 200 spawns {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_millis(1_000), "200 spawns took {:?}", started.elapsed());
    one.power(A, PowerAction::Pause).await.unwrap();
    std::fs::write(dir.path().join("guests/half.tmp"), b"{").unwrap();
    drop(one);
    let two = host(Some(dir.path()));
    assert_eq!(two.list().await.unwrap().len(), 200);
    assert_eq!(two.get(A).await.unwrap().unwrap().power, PowerState::Paused);
    two.destroy(A).await.unwrap();
    two.destroy(A).await.unwrap();
    drop(two);
    assert_eq!(host(Some(dir.path())).list().await.unwrap().len(), 199);
}

#[tokio::test]
async fn planted_faults_fire_once_and_lost_replies_took_effect() {
    let host = host(None);
    host.inject(FaultPoint::Spawn, Fault::fail(ErrorKind::Unavailable, "no"));
    assert_eq!(host.spawn(&spec(A), &NoImages).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert!(host.get(A).await.unwrap().is_none());
    host.inject(FaultPoint::Spawn, Fault::lost_reply());
    assert!(host.spawn(&spec(A), &NoImages).await.is_err());
    assert!(host.get(A).await.unwrap().is_some());
    host.spawn(&spec(A), &NoImages).await.unwrap();
}

#[tokio::test]
async fn an_event_tells_of_each_change_of_power() {
    let host = host(None);
    let mut events = host.events();
    host.spawn(&spec(A), &NoImages).await.unwrap();
    host.spawn(&spec(A), &NoImages).await.unwrap();
    host.stop_by_itself(A, PowerState::Crashed).unwrap();
    host.power(A, PowerAction::Start).await.unwrap();
    host.destroy(A).await.unwrap();
    let mut seen = Vec::new();
    while let Ok(e) = events.try_recv() {
        seen.push(e.power);
    }
    assert_eq!(seen, [PowerState::Running, PowerState::Crashed, PowerState::Running, PowerState::Shutdown]);
}

#[tokio::test]
async fn the_console_names_the_guest_and_vnc_greets() {
    use tokio::io::AsyncReadExt;
    let host = host(None);
    host.spawn(&spec(A), &NoImages).await.unwrap();
    let log = String::from_utf8(host.console_log(A, 1 << 20).await.unwrap()).unwrap();
    assert!(log.ends_with("web---co login: "), "{log}");
    assert_eq!(host.console_log(A, 7).await.unwrap(), b"login: "[..].to_vec());
    let VncEndpoint::Tcp { host: address, port } = host.vnc(A).await.unwrap() else { panic!("tcp") };
    let mut stream = tokio::net::TcpStream::connect((address, port)).await.unwrap();
    let mut banner = [0; 12];
    stream.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"RFB 003.008\n");
}
