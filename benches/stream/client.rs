//! An HTTP client that reads streams and measures: straight at the site, or at the proxy.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::load::{CONVERSATION, Fail, Load, Outcome, Reading, SMALL, bulk_path, ms, unix_micros};

/// A client of one origin; connections are kept.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    origin: Arc<str>,
}

impl Client {
    /// A client that sends its requests to `origin`, without a slash at its end.
    pub fn new(http: reqwest::Client, origin: &str) -> Client {
        Client { http, origin: origin.trim_end_matches('/').into() }
    }

    /// Asks for all streams at once and reads them to their ends.
    pub async fn streams(&self, load: &Load) -> Result<Outcome, Fail> {
        let (load, began) = (*load, Instant::now());
        let mut readers = JoinSet::new();
        for _ in 0..load.streams {
            let client = self.clone();
            readers.spawn(async move { client.stream(&load, began).await });
        }
        let mut outcome = Outcome { delays: Vec::with_capacity(load.total()), ..Outcome::default() };
        while let Some(read) = readers.join_next().await {
            match read? {
                Ok((reading, first)) => {
                    if reading.is_complete(&load) {
                        outcome.complete += 1;
                    } else {
                        outcome.failures.push(format!("{} of {} events", reading.delays.len(), load.events));
                    }
                    outcome.delays.extend(reading.delays);
                    outcome.first.push(first);
                }
                Err(error) => outcome.failures.push(error.to_string()),
            }
        }
        outcome.seconds = began.elapsed().as_secs_f64();
        Ok(outcome)
    }

    async fn stream(&self, load: &Load, began: Instant) -> Result<(Reading, f64), Fail> {
        let url = format!("{}{CONVERSATION}", self.origin);
        let request = self.http.post(url).header("accept", "text/event-stream").json(&load.request());
        let mut answer = request.send().await?.error_for_status()?;
        let mut reading = Reading::default();
        let mut first = None;
        while let Some(piece) = answer.chunk().await? {
            first.get_or_insert_with(|| ms(began.elapsed()));
            reading.take(&piece, unix_micros());
        }
        Ok((reading, first.ok_or("an empty stream")?))
    }

    /// Reads a body of so many bytes; seconds that it took.
    pub async fn bulk(&self, bytes: u64) -> Result<f64, Fail> {
        let began = Instant::now();
        let url = format!("{}{}", self.origin, bulk_path(bytes));
        let mut answer = self.http.get(url).send().await?.error_for_status()?;
        let mut read = 0;
        while let Some(piece) = answer.chunk().await? {
            read += piece.len() as u64;
        }
        if read != bytes {
            return Err(format!("{read} of {bytes} bytes arrived").into());
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// Small requests, one after the other: milliseconds to the first byte of each.
    pub async fn first_bytes(&self, requests: usize) -> Result<Vec<f64>, Fail> {
        let mut times = Vec::with_capacity(requests);
        for _ in 0..requests {
            let began = Instant::now();
            let url = format!("{}{SMALL}", self.origin);
            let mut answer = self.http.get(url).send().await?.error_for_status()?;
            answer.chunk().await?.ok_or("an empty answer")?;
            times.push(ms(began.elapsed()));
            while answer.chunk().await?.is_some() {}
        }
        Ok(times)
    }
}
