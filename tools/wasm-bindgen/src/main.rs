//! Makes the JavaScript bindings of a WebAssembly module: `wasm-bindgen [OPTIONS] --out-dir FOLDER FILE`. Options and
//! output are those of wasm-bindgen-cli.

use anyhow::{Context, Result, bail};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<()> {
    let mut bindgen = Bindgen::new();
    let mut out_dir = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--out-dir" => out_dir = Some(value()?),
            "--out-name" => {
                bindgen.out_name(&value()?);
            }
            "--target" => match value()?.as_str() {
                "module" => {
                    bindgen.module(true)?;
                }
                "web" => {
                    bindgen.web(true)?;
                }
                other => bail!("--target must be module or web, not {other}"),
            },
            "--no-typescript" => {
                bindgen.typescript(false);
            }
            "--omit-default-module-path" => {
                bindgen.omit_default_module_path(true);
            }
            "--experimental-reset-state-function" => {
                bindgen.reset_state_function(true);
            }
            "--force-enable-abort-handler" => {
                bindgen.force_enable_abort_handler(true);
            }
            option if option.starts_with('-') => bail!("unknown option {option}"),
            file => {
                bindgen.input_path(file);
            }
        }
    }
    bindgen.generate(out_dir.context("--out-dir is missing")?)
}
