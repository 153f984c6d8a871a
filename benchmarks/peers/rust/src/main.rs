//! One end of a benchmark over TCP through the public API of the crate `phantom-protocol`.
//!
//! `server SIZE MODE` prints `ADDRESS KEY` (key: hex), `client ADDRESS KEY SIZE MODE SECONDS` does the work. Each ends with one line:
//! `bytes messages seconds cpu faults p50 p99` (seconds, CPU seconds and page faults of the measured part; microseconds).
//! MODE: `stream` (one way until a last message), `echo` (one message there and back at a time), `connect` (SIZE sessions, one after the
//! other, each proves its pin and ends; one more before that warms up), `idle` (SIZE sessions are held: bytes = growth of the resident memory, cpu = that of 3 s without traffic).

use std::env;
use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use phantom_protocol::api::{PhantomListener, PhantomSession, TcpSessionTransport};
use phantom_protocol::crypto::hybrid_sign::HybridVerifyingKey;
use tokio::net::TcpStream;

type Outcome = Result<(), Box<dyn Error>>;
const LAST: u8 = 0xff; // first byte of the message that ends a transfer; all others begin with 0
const RING: usize = 16; // messages between two looks at the clock

fn usage() -> (f64, f64) {
    let mut found: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut found) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    (seconds(found.ru_utime) + seconds(found.ru_stime), found.ru_minflt as f64)
}

struct Meter {
    wall: Instant,
    before: (f64, f64),
}

impl Meter {
    fn start() -> Self {
        Meter { before: usage(), wall: Instant::now() }
    }

    fn report(&self, bytes: usize, messages: usize, latencies: &mut [f64]) {
        let (seconds, now) = (self.wall.elapsed().as_secs_f64(), usage());
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(0.0);
        println!(
            "{bytes} {messages} {seconds} {} {} {} {}",
            now.0 - self.before.0,
            now.1 - self.before.1,
            at(0.5),
            at(0.99)
        );
    }
}

fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
    pages.unwrap_or(0usize) * 4096
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}

async fn connect(address: &str, key: &[u8]) -> Result<PhantomSession, Box<dyn Error>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let session = PhantomSession::connect_with_transport(
        address,
        TcpSessionTransport::new(stream),
        HybridVerifyingKey::from_bytes(key)?,
    );
    session.await_ready().await?;
    Ok(session)
}

async fn rest(held: usize, before: usize) -> Outcome {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let meter = Meter::start();
    tokio::time::sleep(Duration::from_secs(3)).await;
    meter.report(resident() - before, held, &mut []);
    Ok(())
}

async fn server(size: usize, mode: &str) -> Outcome {
    let listener = PhantomListener::bind("127.0.0.1:0".to_string()).await?;
    println!("{} {}", listener.local_addr(), hex(&listener.verifying_key_bytes()));
    if mode == "idle" {
        let (mut held, before) = (Vec::new(), resident());
        while held.len() < size {
            held.push(listener.accept().await?.session());
        }
        return rest(held.len(), before).await;
    }
    if mode == "connect" {
        let mut meter = Meter::start();
        for number in 0..=size {
            let session = listener.accept().await?.session();
            while session.recv().await.is_ok() {}
            if number == 0 {
                meter = Meter::start();
            }
        }
        meter.report(0, size, &mut []);
        return Ok(());
    }
    let session = listener.accept().await?.session();
    session.recv().await?;
    let (meter, mut bytes, mut messages) = (Meter::start(), 0, 0);
    loop {
        let message = session.recv().await?;
        if message.first() == Some(&LAST) {
            break;
        }
        bytes += message.len();
        messages += 1;
        if mode == "echo" {
            session.send(message).await?;
        }
    }
    meter.report(bytes, messages, &mut []);
    session.send(vec![LAST]).await?; // all of it has arrived
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

async fn client(address: &str, key: &[u8], size: usize, mode: &str, seconds: f64) -> Outcome {
    if mode == "idle" {
        let (mut held, before) = (Vec::new(), resident());
        for _ in 0..size {
            held.push(connect(address, key).await?);
        }
        return rest(held.len(), before).await;
    }
    if mode == "connect" {
        connect(address, key).await?.disconnect().await?;
        let (meter, mut latencies) = (Meter::start(), Vec::new());
        for _ in 0..size {
            let begun = Instant::now();
            let session = connect(address, key).await?;
            latencies.push(begun.elapsed().as_secs_f64() * 1e6);
            session.disconnect().await?;
        }
        meter.report(0, size, &mut latencies);
        return Ok(());
    }
    let session = connect(address, key).await?;
    session.send(vec![0; 64]).await?;
    let message = vec![0u8; size];
    let (meter, mut messages, mut latencies) = (Meter::start(), 0, Vec::new());
    while meter.wall.elapsed().as_secs_f64() < seconds {
        if mode == "echo" {
            let begun = Instant::now();
            session.send(message.clone()).await?;
            session.recv().await?;
            latencies.push(begun.elapsed().as_secs_f64() * 1e6);
            messages += 1;
        } else {
            for _ in 0..RING {
                session.send(message.clone()).await?;
            }
            messages += RING;
        }
    }
    session.send(vec![LAST]).await?;
    while session.recv().await?.first() != Some(&LAST) {}
    meter.report(messages * size, messages, &mut latencies);
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let given: Vec<String> = env::args().skip(1).collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    match given[..] {
        ["server", size, mode] => server(size.parse()?, mode).await,
        ["client", address, key, size, mode, seconds] => {
            client(address, &unhex(key)?, size.parse()?, mode, seconds.parse()?).await
        }
        _ => Err("usage: server SIZE MODE | client ADDRESS KEY SIZE MODE SECONDS".into()),
    }
}
