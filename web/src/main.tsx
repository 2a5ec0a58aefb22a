/** The page: its head, the sign-in, and routing to the view in the address. */
import { render } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';

import { claims, refusalOf, request, type ApiError, session, storage, takeOver, useApi, type Fleet, type Watcher, type Whoami } from './api.ts';
import { AbsencesView, AlertsView } from './alerts.tsx';
import { FleetView } from './fleet.tsx';
import { count, duration, href, lateness, Problem, Text, useNow, visible, windowOf } from './parts.tsx';
import { SandboxesView, SandboxView } from './sandboxes.tsx';

const VIEWS = [
  ['fleet', 'Fleet'],
  ['sandboxes', 'Sandboxes'],
  ['alerts', 'Alerts'],
  ['absences', 'Absences'],
] as const;

const THEME_KEY = 'kiloclaw-theme';
const settings = storage('localStorage');
/** Parameters for the position in a list; a changed filter resets them. */
const CURSORS = ['cursor', 'before', 'after'];

interface Route {
  readonly view: string;
  readonly id: string | undefined;
  readonly parameters: URLSearchParams;
}

function route(): Route {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [view, id] = path.split('/');
  let decoded: string | undefined;
  try {
    decoded = id ? decodeURIComponent(id) : undefined;
  } catch {
    // A malformed address names no sandbox.
  }
  return { view: view || 'fleet', id: decoded, parameters: new URLSearchParams(query) };
}

function useRoute(): Route {
  const [current, setCurrent] = useState(route);
  useEffect(() => {
    const changed = () => setCurrent(route());
    window.addEventListener('hashchange', changed);
    return () => window.removeEventListener('hashchange', changed);
  }, []);
  return current;
}

/** Sets a parameter of the address; an empty value removes it. */
function setParameter(name: string, value: string): void {
  const { view, id, parameters } = route();
  if (!CURSORS.includes(name)) for (const cursor of CURSORS) parameters.delete(cursor);
  if (value === '') parameters.delete(name);
  else parameters.set(name, value);
  const path = id === undefined ? view : `${view}/${encodeURIComponent(id)}`;
  location.hash = href(path, Object.fromEntries(parameters));
}

const REASONS: Record<string, string> = {
  expired_token: 'Your token has expired. Paste a new one.',
  invalid_token: 'This token is not valid here. Paste another one.',
};

function SignIn({ reason, done }: { reason: ApiError | undefined; done: () => void }) {
  const [error, setError] = useState<string>();
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    document.title = 'Sign in · Kiloclaw';
    input.current?.focus();
    // After rendering, since screen readers do not announce an alert that is present from the beginning.
    setError(reason && REASONS[reason.code]);
  }, []);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const input = (event.target as HTMLFormElement).elements.namedItem('token') as HTMLInputElement;
    const token = input.value.trim().replace(/^Bearer\s+/i, '');
    if (claims(token) === undefined || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) {
      setError('This is not a token: a token has three parts, separated by dots.');
      return;
    }
    session.token = token;
    const refused = await refusalOf(() => request('/api/whoami'));
    if (refused === undefined) return done();
    session.token = null;
    setError(REASONS[refused.code] ?? refused.message);
  };
  return (
    <main class="sign-in" id="main">
      <h1>Kiloclaw telemetry</h1>
      <p>Sign in with an operator's token. It is kept for this tab only, and sent to this Worker only.</p>
      <form onSubmit={(event) => void submit(event)}>
        <label>
          Token
          <input ref={input} name="token" type="password" autocomplete="off" spellcheck={false} required aria-describedby="sign-in-error" />
        </label>
        <button type="submit">Sign in</button>
        <p id="sign-in-error" class={error ? 'problem' : ''} role="alert">
          {error}
        </p>
      </form>
      <details>
        <summary>Where do I get one?</summary>
        <p>
          Whoever runs this Worker mints one: <code>npm run --silent token -- --sub your-name --ttl 12h</code>. Behind Cloudflare
          Access, no token is needed.
        </p>
      </details>
    </main>
  );
}

function nextTheme(): void {
  const isDark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === 'dark'
    : matchMedia('(prefers-color-scheme: dark)').matches;
  const theme = isDark ? 'light' : 'dark';
  document.documentElement.dataset.theme = theme;
  settings.setItem(THEME_KEY, theme);
  window.dispatchEvent(new Event('theme'));
}

/** Age and sampling of the data, and the watcher's state; shown in every view. */
function Health({ fleet, watcher, error }: { fleet: Fleet | undefined; watcher: Watcher | undefined; error: ApiError | undefined }) {
  const now = useNow();
  const age = fleet === undefined ? undefined : Math.max(0, (now - Date.parse(fleet.asOf)) / 1_000);
  let [state, text] = ['off', ''];
  if (watcher !== undefined) {
    if (watcher.state === 'off') [state, text] = ['off', `off: ${watcher.reason ?? ''}`];
    else if (watcher.watch.degradedSince !== null) [state, text] = ['bad', 'no verdicts: Analytics Engine is late'];
    else if (watcher.watch.failure !== null) [state, text] = ['bad', watcher.watch.failure];
    else if (lateness(watcher, now) > 0) [state, text] = ['bad', `no tick for ${duration(lateness(watcher, now))}`];
    else [state, text] = ['ok', 'OK'];
    const undelivered = watcher.channels.reduce((sum, channel) => sum + channel.undelivered, 0);
    if (undelivered > 0) text += `, ${count(undelivered)} undelivered`;
  } else if (error !== undefined) text = 'unknown';
  return (
    <div class="health">
      {age !== undefined && (
        <span class={age > 120 ? 'state warn' : ''}>
          Data {duration(age)} old{age > 120 && ': not refreshed'}
        </span>
      )}
      {fleet !== undefined && fleet.sampleInterval > 1 && (
        <span class="state warn" title="Analytics Engine reads one point for many: a sandbox can seem silent that is not">
          sampled 1:{count(fleet.sampleInterval)}
        </span>
      )}
      {text !== '' && (
        <a href={href('alerts')}>
          <span class={`state ${state}`}>
            Watcher <Text of={text} />
          </span>
        </a>
      )}
    </div>
  );
}

/** The principal; with a token, how long it is valid. */
function Account({ sub, only, signOut }: { sub: string | null | undefined; only: string | undefined; signOut: () => void }) {
  const now = useNow();
  const { token } = session;
  const { exp } = session.claims;
  if (token === null && !sub) return null;
  const left = exp === undefined ? undefined : exp - now / 1_000;
  return (
    <div class="account">
      <span class="muted">
        {visible(sub ?? '')}
        {only !== undefined && ', one sandbox'}
        {left !== undefined && <span class={left < 600 ? 'state warn' : ''}> · {left > 0 ? `${duration(left)} left` : 'expired'}</span>}
      </span>
      {token !== null && (
        <button type="button" class="quiet" onClick={signOut}>
          Sign out
        </button>
      )}
    </div>
  );
}

function Head({ view, only }: { view: string; only: string | undefined }) {
  const seen = VIEWS.filter(([name]) => only === undefined || name === 'alerts' || name === 'absences');
  return (
    <nav aria-label="Views">
      {only !== undefined && (
        <a href={href(`sandboxes/${encodeURIComponent(only)}`)} aria-current={view === 'sandboxes' ? 'page' : undefined}>
          Sandbox
        </a>
      )}
      {seen.map(([name, text]) => (
        <a key={name} href={href(name)} aria-current={view === name ? 'page' : undefined}>
          {text}
        </a>
      ))}
    </nav>
  );
}

function App() {
  const { view, id, parameters } = useRoute();
  const [refused, setRefused] = useState<ApiError>();
  const [isOut, setOut] = useState(false);
  const [version, setVersion] = useState(0);
  const isFirst = useRef(true);
  useEffect(() => {
    const signedOut = (event: Event) => {
      setRefused((event as CustomEvent<ApiError>).detail);
      session.token = null;
      setOut(true);
    };
    window.addEventListener('signed-out', signedOut);
    return () => window.removeEventListener('signed-out', signedOut);
  }, []);
  useEffect(() => {
    document.title = `${VIEWS.find(([name]) => name === view)?.[1] ?? 'Not found'}${id ? ` ${visible(id)}` : ''} · Kiloclaw`;
    // Not on the first view, so that Tab starts at the page's head.
    if (isFirst.current) isFirst.current = false;
    else document.getElementById('main')?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }, [view, id]);
  if (isOut) {
    return (
      <SignIn
        reason={refused}
        done={() => {
          setRefused(undefined);
          setOut(false);
          setVersion(version + 1);
        }}
      />
    );
  }
  const signOut = () => {
    session.token = null;
    setRefused(undefined);
    setOut(true);
  };
  return <Signed key={version} {...{ view, id, parameters, signOut }} />;
}

function Signed(props: Route & { signOut: () => void }) {
  const { view, id, parameters } = props;
  // The view's own requests come first.
  const [isLater, setLater] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLater(true), 300);
    return () => clearTimeout(timer);
  }, []);
  // Behind Cloudflare Access, the page does not see the token that names and limits the reader.
  const isBehind = session.token === null;
  const who = useApi<Whoami>(isBehind && isLater ? '/api/whoami' : undefined);
  const only = session.claims.sandbox_id ?? who.data?.sandboxId ?? undefined;
  const scope = isBehind ? who.data?.scope : (session.claims.scope ?? '');
  const mayWrite = scope?.split(' ').includes('absences:write');
  const isFleet = view === 'fleet' && only === undefined;
  // A principal who may see one sandbox must not request all.
  const all = isLater && only === undefined && (!isBehind || who.data !== undefined || who.error !== undefined);
  const watcher = useApi<Watcher>(isFleet || all ? '/api/watcher' : undefined);
  // The watcher responds from memory at once, but not while slow queries run.
  const isNext = isLater || watcher.data !== undefined || watcher.error !== undefined;
  const window = isFleet ? windowOf(parameters) : '1h';
  const fleet = useApi<Fleet>(all || (isFleet && isNext) ? `/api/fleet?window=${encodeURIComponent(window)}` : undefined);
  const common = { parameters, set: setParameter };
  const shown = () => {
    const at = only === undefined || view === 'alerts' || view === 'absences' ? id : (id ?? only);
    if (only !== undefined && view === 'fleet') return <SandboxView key={only} id={only} {...common} />;
    if (view === 'fleet') return <FleetView {...common} fleet={fleet} watcher={watcher.data} isNext={isNext} />;
    if (view === 'sandboxes' && at !== undefined) return <SandboxView key={at} id={at} {...common} />;
    if (view === 'sandboxes') return <SandboxesView {...common} />;
    if (view === 'alerts') return <AlertsView {...common} watcher={watcher.data} mayWrite={mayWrite} />;
    if (view === 'absences') return <AbsencesView {...common} only={only} mayWrite={mayWrite} />;
    return (
      <div class="empty">
        <h1>There is no such view</h1>
        <p>
          <a href="#/fleet">The fleet</a>
        </p>
      </div>
    );
  };
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById('main')?.focus(); }}>
        Skip to the content
      </a>
      <header>
        <a class="brand" href="#/fleet">
          Kiloclaw
        </a>
        <Head view={view} only={only} />
        <div class="tools">
          <button type="button" class="quiet" onClick={nextTheme} aria-label="Switch between dark and light">
            ◐
          </button>
          <Account sub={isBehind ? who.data?.sub : (session.claims.sub ?? 'a token')} only={only} signOut={props.signOut} />
        </div>
        <Health fleet={fleet.data} watcher={watcher.data} error={watcher.error} />
      </header>
      {watcher.error?.status === 503 && <Problem error={watcher.error} />}
      <main id="main" tabIndex={-1}>
        {shown()}
      </main>
    </>
  );
}

const theme = settings.getItem(THEME_KEY);
if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme;
takeOver();
render(<App />, document.getElementById('page')!);
