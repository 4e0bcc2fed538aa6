use super::*;
use crate::libvirt::xdr::Reader;
use tokio::net::UnixListener;

const WAIT: Duration = Duration::from_secs(5);

/// A daemon of a few lines: version 7 for every call of GET_VERSION, an error for LOOKUP, and a
/// ping, an event and the end of the connection on request (`CONNECT_CLOSE`).
async fn fake_daemon(listener: UnixListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        while let Ok(length) = stream.read_u32().await {
            let mut rest = vec![0; length as usize - 4];
            stream.read_exact(&mut rest).await.unwrap();
            let mut r = Reader::new(&rest);
            let (program, _, number, _, serial) =
                (r.u32().unwrap(), r.u32().unwrap(), r.u32().unwrap(), r.u32().unwrap(), r.u32().unwrap());
            if program == PROGRAM_KEEPALIVE {
                assert_eq!(number, KEEPALIVE_PONG);
                let event = Writer::new().u32(1).into_bytes();
                stream.write_all(&frame(PROGRAM_REMOTE, procedure::EVENT_REBOOT, TYPE_EVENT, 0, &event)).await.unwrap();
                continue;
            }
            match number {
                procedure::CONNECT_GET_VERSION => {
                    let body = Writer::new().u64(7).into_bytes();
                    stream.write_all(&frame(PROGRAM_KEEPALIVE, KEEPALIVE_PING, TYPE_EVENT, 0, &[])).await.unwrap();
                    stream.write_all(&frame(PROGRAM_REMOTE, number, TYPE_REPLY, serial, &body)).await.unwrap();
                }
                procedure::DOMAIN_LOOKUP_BY_UUID => {
                    let body = Writer::new().i32(42).i32(10).optional(Some("no")).into_bytes();
                    let mut packet = frame(PROGRAM_REMOTE, number, TYPE_REPLY, serial, &body);
                    packet[27] = 1;
                    stream.write_all(&packet).await.unwrap();
                }
                procedure::CONNECT_CLOSE => break,
                procedure::DOMAIN_SUSPEND => {}
                procedure::AUTH_LIST => {
                    stream.write_all(&frame(PROGRAM_REMOTE, number, TYPE_REPLY, serial, &[0, 0, 0, 1, 0, 0, 0, 0])).await.unwrap()
                }
                _ => stream.write_all(&frame(PROGRAM_REMOTE, number, TYPE_REPLY, serial, &[0; 4])).await.unwrap(),
            }
        }
    }
}

#[tokio::test]
async fn calls_errors_events_deadlines_and_reconnect() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let daemon = tokio::spawn(fake_daemon(UnixListener::bind(&socket).unwrap()));
    let client = Client::new(socket, "test:///default", &[0, 15]);
    let mut events = client.events();
    let version = client.call(procedure::CONNECT_GET_VERSION, Writer::new(), WAIT).await.unwrap();
    assert_eq!(Reader::new(&version).u64().unwrap(), 7);
    let event = tokio::time::timeout(WAIT, events.recv()).await.unwrap().unwrap();
    assert_eq!(event.procedure, procedure::EVENT_REBOOT);
    let e = client.call(procedure::DOMAIN_LOOKUP_BY_UUID, Writer::new().fixed(&[0; 16]), WAIT).await.unwrap_err();
    assert!(e.is_not_found());
    let e = client.call(procedure::DOMAIN_SUSPEND, Writer::new(), Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(e.kind, caelum_base::ErrorKind::Timeout);
    let e = client.call(procedure::CONNECT_CLOSE, Writer::new(), WAIT).await.unwrap_err();
    assert_eq!(e.kind, caelum_base::ErrorKind::Unavailable);
    client.call(procedure::CONNECT_GET_VERSION, Writer::new(), WAIT).await.unwrap();
    daemon.abort();
}

#[tokio::test]
async fn nobody_listening_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path().join("none"), "test:///default", &[]);
    let e = client.call(procedure::CONNECT_GET_VERSION, Writer::new(), WAIT).await.unwrap_err();
    assert_eq!(e.kind, caelum_base::ErrorKind::Unavailable);
}
