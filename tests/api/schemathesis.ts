/**
 * The main part of `npm run test:api`: starts the Worker with a made-up fleet, and lets schemathesis send it
 * requests for every operation in `src/openapi.json`.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { parseArgs } from 'node:util';

import { credentials, JWT_SECRET, SANDBOX_ID } from '../../harness/check-in.ts';
import { startWorker } from '../../harness/worker.ts';
import { command, Failure } from '../../harness/command.ts';
import { withContext, type Context } from '../../harness/context.ts';
import { history } from '../../harness/made-up-fleet.ts';
import { insert } from '../../harness/store.ts';
import { mint } from '../../harness/token.ts';

const HELP = `Usage: npm run test:api [-- OPTIONS]

Options:
  --examples N   requests per operation and phase [default: 300]
  --seed N       seed of the random requests [default: 1]
  -h, --help     print this help
`;

/** Every described response passes these checks, including a refused credential. */
const CHECKS = [
  'not_a_server_error',
  'status_code_conformance',
  'content_type_conformance',
  'response_headers_conformance',
  'response_schema_conformance',
];

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      examples: { type: 'string', default: '300' },
      seed: { type: 'string', default: '1' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return void console.log(HELP);
  const [schemathesis] = positionals;
  await withContext((context) => testApi(context, schemathesis, values.examples, values.seed));
}

async function testApi(context: Context, schemathesis: string, examples: string, seed: string): Promise<void> {
  const worker = await startWorker({}, context);
  await insert(worker.store, history({ sandboxes: 50, hours: 24, seed: 1, now: Date.now() }));
  const token = await mint({ sub: 'test', ttl: 86_400 }, { JWT_SECRET });
  const run = async (
    what: string,
    filter: readonly string[],
    headers: Readonly<Record<string, string>>,
  ): Promise<boolean> => {
    console.log(`\n=== ${what}\n`);
    const args = ['run', 'src/openapi.json', '--url', worker.url.origin, ...filter];
    args.push('--checks', CHECKS.join(','), '--max-examples', examples, '--seed', seed);
    args.push('--generation-database', 'none', '--no-color', '--warnings', 'off');
    for (const [name, value] of Object.entries(headers)) args.push('--header', `${name}:${value}`);
    // Not spawnSync, because this process serves the Worker.
    const [code] = await once(spawn(schemathesis, args, { stdio: 'inherit' }), 'close');
    return code === 0;
  };
  const operators = ['--include-tag', 'operators'];
  const machines = ['--include-tag', 'machines'];
  const passed = [
    await run('operators', operators, { authorization: `Bearer ${token}` }),
    await run('operators, with an invalid token', operators, { authorization: 'Bearer x.y.z' }),
    await run('machines', machines, credentials(SANDBOX_ID)),
    await run('machines, with a wrong key', machines, { authorization: 'Bearer x' }),
    await run('public routes', ['--include-tag', 'service'], {}),
  ];
  if (passed.includes(false)) throw new Failure('a response does not match src/openapi.json: see above');
}

if (import.meta.main) await command('test:api', main);
