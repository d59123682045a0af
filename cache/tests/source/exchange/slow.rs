//! A token service that takes its time: it answers as many questions as it is let.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::aws::given;
use super::ok;
use super::renewal::minutes;

/// The service; ends when dropped.
pub(super) struct Slow {
    address: SocketAddr,
    asked: watch::Sender<u64>,
    answers: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl Slow {
    /// Its n-th keys have the number n and end after 15 n minutes. It answers nothing yet.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, answers) = (watch::Sender::new(0), watch::Sender::new(0));
        let (count, permits) = (asked.clone(), answers.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, count.clone(), permits.subscribe()));
            }
        });
        Self {
            address,
            asked,
            answers,
            _tasks: tasks,
        }
    }

    pub(super) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many questions it was asked.
    pub(super) fn asked(&self) -> u64 {
        *self.asked.borrow()
    }

    /// Waits until it was asked so many questions.
    pub(super) async fn until_asked(&self, times: u64) {
        let mut asked = self.asked.subscribe();
        asked.wait_for(|asked| *asked >= times).await.unwrap();
    }

    /// Lets it answer so many questions in all.
    pub(super) fn answer(&self, times: u64) {
        self.answers.send_replace(times);
    }
}

async fn serve(
    mut stream: TcpStream,
    asked: watch::Sender<u64>,
    mut answers: watch::Receiver<u64>,
) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if let Ok(0) | Err(_) = stream.read_buf(&mut request).await {
            return;
        }
    }
    let mut number = 0;
    asked.send_modify(|asked| {
        *asked += 1;
        number = *asked;
    });
    if answers.wait_for(|times| *times >= number).await.is_err() {
        return;
    }
    let answer = ok(&given(number, &minutes(15 * number)));
    // Whoever asked may have gone.
    drop(stream.write_all(&answer.bytes).await);
}

/// Whether a request has come with all of its body.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let lengths = head
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= lengths.map_or(0, |length| length.parse().unwrap())
}
