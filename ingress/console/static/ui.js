// Preact, and the hooks that all views share.

import { h, render } from "../vendor/preact.js";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
import htm from "../vendor/htm.js";
import { ask } from "./api.js";
import { language } from "./i18n.js";

export const html = htm.bind(h);
export { render, useEffect, useLayoutEffect, useMemo, useRef, useState };

export function useStore(one) {
  const [value, set] = useState(one.get());
  useEffect(() => {
    set(one.get());
    return one.subscribe(set);
  }, [one]);
  return value;
}

/** Renders anew when another language is chosen. */
export const useLanguage = () => useStore(language);

/** Date.now(), anew each `every` ms while the page is seen; 0: it stands. */
export function useNow(every) {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    if (!every) return undefined;
    const timer = setInterval(() => document.visibilityState === "visible" && set(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** {data, failure} of a route, asked each `every` ms while the page is seen. An older answer stays when one fails. */
export function usePoll(path, every) {
  const [found, set] = useState({ data: null, failure: null });
  useEffect(() => {
    const gone = new AbortController();
    let timer = 0;
    const look = async () => {
      if (document.visibilityState === "visible") {
        try {
          const data = await ask(path, { signal: gone.signal });
          set({ data, failure: null });
        } catch (failure) {
          if (gone.signal.aborted) return;
          set((before) => ({ ...before, failure }));
          if (failure.status === 404 || failure.status === 403) return; // it will not be otherwise soon
        }
      }
      timer = setTimeout(look, every);
    };
    void look();
    return () => {
      gone.abort();
      clearTimeout(timer);
    };
  }, [path, every]);
  return found;
}
