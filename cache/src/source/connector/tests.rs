//! Names whose addresses change between two connections; connections through a proxy.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use futures::future::BoxFuture;
use object_store::client::HttpRequestBody;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::gate::{Connection, Demand, OpenGate, Permit, Redirection, Refusal};

mod proxy;

const HOST: &str = "models.example.com";
const ALLOWED: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Gives one answer after the other.
struct Script(Mutex<VecDeque<Vec<IpAddr>>>);

impl Resolver for Script {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        assert_eq!(host, HOST);
        let next = self.0.lock().unwrap().pop_front();
        Box::pin(std::future::ready(Ok(next.unwrap())))
    }
}

/// Lets everything through, and remembers what was connected to.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<Connection>>);

impl Asked {
    fn addresses(&self) -> Vec<IpAddr> {
        let asked = self.0.lock().unwrap();
        asked.iter().map(|connection| connection.address).collect()
    }
}

impl Gate for Asked {
    fn connect(&self, connection: &Connection) -> Result<(), Refusal> {
        self.0.lock().unwrap().push(connection.clone());
        Ok(())
    }

    fn redirect(&self, redirection: &Redirection<'_>) -> Result<(), Refusal> {
        OpenGate.redirect(redirection)
    }

    fn admit<'a>(&'a self, _: &'a Demand) -> BoxFuture<'a, Result<Box<dyn Permit>, Refusal>> {
        panic!("a transport asks for no bytes")
    }
}

/// A transport that may reach one loopback address, with these answers to its questions for the name.
fn transport(gate: &Arc<Asked>, answers: &[&[IpAddr]]) -> Transport {
    let config = SourceConfig {
        allowed_cidrs: vec!["127.0.0.1/32".parse().unwrap()],
        ..SourceConfig::default()
    };
    let answers = answers.iter().map(|answer| answer.to_vec()).collect();
    scripted(&config, gate, answers)
}

fn scripted(config: &SourceConfig, gate: &Arc<Asked>, answers: VecDeque<Vec<IpAddr>>) -> Transport {
    let plain = Transport::new(config, Arc::<Asked>::clone(gate)).unwrap();
    let inner = Arc::into_inner(plain.0).unwrap();
    Transport(Arc::new(Inner {
        resolver: Box::new(Script(Mutex::new(answers))),
        ..inner
    }))
}

fn request(port: u16) -> HttpRequest {
    asking(&format!("http://{HOST}:{port}/a"))
}

fn asking(url: &str) -> HttpRequest {
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.uri_mut() = url.parse().unwrap();
    request
}

/// Answers one request on one connection, and closes it.
async fn serve(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = [0; 1024];
    assert!(stream.read(&mut head).await.unwrap() > 0);
    stream.write_all(ANSWER).await.unwrap();
}

/// Asks once at the allowed address, where it is answered.
async fn answered(transport: &Transport, listener: &TcpListener, port: u16) {
    let (reply, ()) = tokio::join!(transport.send(request(port)), serve(listener));
    assert_eq!(reply.unwrap().collect(16).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_name_that_has_another_address_for_the_second_connection_is_checked_again() {
    for forbidden in ["169.254.169.254", "100.100.100.200", "127.0.0.2"] {
        let forbidden: IpAddr = forbidden.parse().unwrap();
        let listener = TcpListener::bind((ALLOWED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = Arc::<Asked>::default();
        let transport = transport(&gate, &[&[ALLOWED], &[forbidden]]);
        answered(&transport, &listener, port).await;
        let error = transport.send(request(port)).await.unwrap_err();
        assert!(matches!(error, Error::Gate(Refusal::Denied(_))), "{error}");
        let sentence = format!("host \"{HOST}\" is at {forbidden}: ");
        assert!(error.to_string().starts_with(&sentence), "{error}");
        assert_eq!(gate.addresses(), [ALLOWED]);
    }
}

#[tokio::test]
async fn nobody_hears_of_a_connection_to_a_forbidden_address_also_where_an_allowed_one_stands_beside()
 {
    let listener = TcpListener::bind((ALLOWED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let forbidden: IpAddr = "127.0.0.2".parse().unwrap();
    let trap = std::net::TcpListener::bind((forbidden, port)).unwrap();
    trap.set_nonblocking(true).unwrap();
    let gate = Arc::<Asked>::default();
    let transport = transport(&gate, &[&[forbidden, ALLOWED], &[forbidden]]);
    answered(&transport, &listener, port).await;
    assert!(transport.send(request(port)).await.is_err());
    let heard = trap.accept().unwrap_err();
    assert_eq!(heard.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(gate.addresses(), [ALLOWED]);
}
