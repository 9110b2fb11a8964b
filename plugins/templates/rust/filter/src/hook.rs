//! Replaces a word while the answer is produced, wherever a chunk ends.

use std::cell::RefCell;

use crate::exports::stent::policy::output_filter::{Filter, Guest, GuestFilter, Step};
use crate::settings::Settings;
use crate::stent::policy::request::Request;
use crate::stent::policy::types::Finish;
use crate::{Plugin, config};

pub const SUMMARY: &str = "Replaces a word in answers";

pub struct Config {
    word: String,
    replacement: String,
}

impl Config {
    pub fn new(settings: &Settings) -> Result<Self, String> {
        Ok(Self {
            word: settings.text("word").into(),
            replacement: settings.text("replacement").into(),
        })
    }

    /// The word itself, a character at a time.
    pub fn self_test(&self) -> Result<(), String> {
        let mut held = String::new();
        let mut emitted = String::new();
        for letter in self.word.chars() {
            emitted += &self.push(&mut held, letter.encode_utf8(&mut [0; 4]));
        }
        match emitted == self.replacement && held.is_empty() {
            true => Ok(()),
            false => Err("self-test: the word is not replaced across chunk borders".into()),
        }
    }

    /// Takes a chunk, gives what may go out, and holds back an end that may become the word.
    fn push(&self, held: &mut String, chunk: &str) -> String {
        held.push_str(chunk);
        let mut emitted = String::new();
        while let Some((before, after)) = held.split_once(&self.word) {
            emitted += before;
            emitted += &self.replacement;
            *held = after.into();
        }
        let ends = |at: &usize| self.word.starts_with(&held[*at..]);
        let begins = held.char_indices().map(|(at, _)| at).find(ends);
        let rest = held.split_off(begins.unwrap_or(held.len()));
        emitted += held;
        *held = rest;
        emitted
    }
}

impl Guest for Plugin {
    type Filter = Open;
}

/// The filter of one answer, with what it holds back.
pub struct Open(RefCell<String>);

impl GuestFilter for Open {
    fn open(_: &Request) -> Result<Filter, String> {
        Ok(Filter::new(Self(RefCell::default())))
    }

    fn push(&self, chunk: String) -> Result<Step, String> {
        Ok(Step::Emit(config()?.push(&mut self.0.borrow_mut(), &chunk)))
    }

    fn finish(&self, _: Finish) -> Result<String, String> {
        Ok(self.0.take())
    }
}
