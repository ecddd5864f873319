// The little that a page does by itself. What it shows comes from the server, ready; what it changes goes through the
// same API as everybody's, with a header that no page of another origin can send.
(() => {
  "use strict";

  const html = document.documentElement;
  const root = html.dataset.root;
  const at = (path) => new URL(root + path, location.href).href;
  const here = at("").replace(/\/$/, "");  // where people reach us, whatever stands between
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const OURS = { "X-Controlplane-Page": "1", "X-Controlplane-Root": root };

  const tell = (text) => {
    const toast = document.createElement("div");
    toast.className = "toast";
    toast.textContent = text;
    $("#told").append(toast);
    setTimeout(() => toast.remove(), 6000);
  };

  const ask = async (path) => {
    const answer = await fetch(at(path), { headers: { ...OURS, "HX-Request": "true" } });
    if (answer.status === 401) location.reload();
    return answer.ok ? answer.text() : null;
  };

  const elements = (text) => {
    const template = document.createElement("template");
    template.innerHTML = text;
    return template.content;
  };

  // What somebody has opened stays open when the server's newer text comes.
  const morph = (old, text, style = "innerHTML") => { window.Idiomorph.morph(old, text, {
    morphStyle: style,
    callbacks: { beforeAttributeUpdated: (name, node) => !(name === "open" || (name === "checked" && node.name === "pick")) },
  }); ages(); };

  document.addEventListener("htmx:configRequest", (event) => Object.assign(event.detail.headers, OURS));

  // Ages by the clock of the server, of which the page was told when it was made.
  const skew = Date.parse(html.dataset.now) - Date.now();
  const ages = () => {
    for (const time of $$("time.ago")) {
      const seconds = Math.max(0, Math.round((Date.now() + skew - Date.parse(time.dateTime)) / 1000));
      const text = seconds < 60 ? `${seconds} s ago` : seconds < 3600 ? `${Math.floor(seconds / 60)} min ago`
        : seconds < 86400 ? `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min ago` : time.title.slice(0, 16).replace("T", " ");
      if (time.textContent !== text) time.textContent = text;
    }
  };
  ages();
  setInterval(ages, 5000);

  // ── Theme, signing in and out, copying ─────────────────────────────────────────────────────────────────────────

  const theme = $("#theme");
  const themed = () => { $(".word", theme).textContent = html.dataset.theme || "auto"; };
  theme.addEventListener("click", () => {
    const next = { "": "dark", dark: "light", light: "" }[html.dataset.theme || ""];
    if (next) html.dataset.theme = next; else delete html.dataset.theme;
    try { localStorage.setItem("controlplane.theme", next); } catch { /* it holds until the next page */ }
    themed();
  });
  themed();

  const refusal = async (answer) => {
    try {
      const said = await answer.json();
      return { text: [said.detail || said.message || said.title, said.fix].filter(Boolean).join(" "), where: said.where || "" };
    } catch { return { text: `The server answered ${answer.status}.`, where: "" }; }
  };
  const problem = async (answer) => (await refusal(answer)).text;

  $("#login")?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target;
    const said = $(".said", form);
    const answer = await fetch(form.action, { method: "POST", headers: OURS, body: new URLSearchParams(new FormData(form)) });
    if (answer.ok) {
      const home = new URL(root, location.href);
      const next = new URL(root + (new URLSearchParams(location.search).get("next") || "").replace(/^[/\\]+/, ""), location.href);
      location.href = next.origin === home.origin && next.pathname.startsWith(home.pathname) ? next.href : home.href;
    } else { said.textContent = await problem(answer); said.hidden = false; }
  });
  $("#leave")?.addEventListener("click", async () => {
    await fetch(at("logout"), { method: "POST", headers: OURS });
    location.href = at("login");
  });

  const copied = async (button, text) => {
    try { await navigator.clipboard.writeText(text); } catch { tell("The browser does not let this page copy."); return; }
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
  };

  // ── Actions: one call of the API, and the same in words for elsewhere ──────────────────────────────────────────

  const shell = (text) => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`;
  const python = (text) => JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const SAID = {
    json: (text) => `json.loads(${python(text)})`,
    number: (text) => text,
    words: (text) => `[${listed(text).map(python).join(", ")}]`,
    flag: () => "True",
    moment: (text) => `datetime.fromisoformat(${python(text)})`,
  };
  const NEEDS = { "json.loads": "import json\n", "datetime.from": "from datetime import datetime\n" };
  const needed = (call) => Object.entries(NEEDS).filter(([name]) => call.includes(name)).map(([, line]) => line).join("");

  const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
  const listed = (text) => text.split(/[\s,]+/).filter(Boolean);
  const member = ({ kind, value }) => kind === "words" ? `[${listed(value).map((one) => JSON.stringify(one)).join(", ")}]`
    : ["json", "number", "flag"].includes(kind) ? value : JSON.stringify(value);
  const option = ({ kind, option, value }) => kind === "words" ? listed(value).map((one) => `${option} ${shell(one)}`)
    : option ? [kind === "flag" ? option : `${option} ${shell(value)}`] : [];
  class Wrong extends Error {
    constructor(field, text) { super(text); this.field = field; }
  }
  const placed = (entry) => entry.kind === "path" || entry.kind === "word";  // elsewhere an argument by its place

  // JSON is put together from the letters that were typed: a large number must not become another one on its way.
  const made = (form) => {
    const filled = JSON.parse(form.dataset.entries || "[]").map((entry) => {
      const field = $(`[name="${entry.name}"]`, form);
      const first = field.tagName === "SELECT" ? field.options[0].value : "";
      const value = field.type !== "checkbox" ? field.value.trim() : $$(`[name="${entry.name}"]:checked`, form).map((box) => box.value).join(" ");
      return { ...entry, field, value, usual: value === first };
    }).filter((entry) => entry.value && (!entry.usual || placed(entry)));
    let path = form.dataset.path;
    const members = Object.entries(JSON.parse(form.dataset.body || "{}")).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
    let whole = null;
    for (const entry of filled) {
      if (entry.kind === "path") path = path.replace(`{${entry.name}}`, encodeURIComponent(entry.value));
      else if (entry.whole) whole = entry.value;
      else members.push(`${JSON.stringify(entry.name)}: ${member(entry)}`);
      if (entry.kind === "json") {
        try { JSON.parse(entry.value); } catch (error) { throw new Wrong(entry.field, `This is no JSON: ${error.message}.`); }
      }
      if (entry.kind === "number" && !NUMBER.test(entry.value)) throw new Wrong(entry.field, "This takes a number, such as 4 or 0.5.");
    }
    return { path, filled, body: whole ?? (members.length ? `{${members.join(", ")}}` : "") };
  };

  const curl = (form, method, path, body) => [
    `curl -X ${method} ${shell(`${here}/${path}`)}`,
    ...(form.dataset.closed ? [`-H "X-API-Key: $CONTROLPLANE_API_KEY"`] : []),
    ...(body ? [`-H 'Content-Type: application/json'`, `-d ${shell(body)}`] : []),
  ].join(" \\\n  ");

  const snippets = (form) => {
    const { path, filled, body } = made(form);
    const words = filled.filter(placed).map((one) => shell(one.value));
    const options = [...filled.filter((one) => !placed(one)).flatMap(option), ...server()];
    const dashed = filled.some((one) => placed(one) && one.value.startsWith("-"));  // it would be read as an option
    const given = filled.map((one) => placed(one) ? python(one.value) : `${one.name}=${(SAID[one.kind] || python)(one.value)}`).join(", ");
    const call = form.dataset.python.replace(/, \{\}|\{\}/, (all) => (given ? all.replace("{}", () => given) : ""));
    return {
      curl: curl(form, form.dataset.method, path, body),
      cli: [form.dataset.cli, ...(dashed ? [...options, "--", ...words] : [...words, ...options])].join(" "),
      python: `${needed(given)}from controlplane_sdk import Client\n\nasync with Client(${python(here)}) as client:\n    ${call}`,
    };
  };
  const server = () => (here === "http://localhost:8080" ? [] : [`--server ${shell(here)}`]);

  const show = (form, make) => {
    let all = { curl: "", cli: "", python: "" };
    try { all = make(form); } catch (error) { all.curl = all.cli = all.python = error.message; }
    for (const pre of $$("[data-says]", form)) pre.textContent = all[pre.dataset.says];
  };

  const send = async (method, path, body, more = {}) => fetch(at(path), {
    method, headers: { ...OURS, ...more, ...(body ? { "Content-Type": "application/json" } : {}) }, body: body || undefined,
  });

  const act = async (form) => {
    const said = $("[data-refused]", form);
    said.hidden = true;
    // Beside the field that has the flaw, if it is to be seen; else above the buttons.
    const refuse = (text, field) => {
      said.textContent = text;
      said.hidden = false;
      const part = field?.closest("fieldset") ?? field?.closest("label, .field");
      if (part?.checkVisibility()) {
        part.after(said);
        field.setAttribute("aria-invalid", "true");
        field.focus();
      } else $(".buttons", form).before(said);
    };
    const off = form.dataset.off;
    if (off) { tell(off); return; }
    for (const field of $$("[aria-invalid]", form)) field.removeAttribute("aria-invalid");
    let asked;
    try {
      if (form.matches(".run") && !fits(form)) return;
      asked = made(form);
    } catch (error) {
      refuse(error.message, error.field);
      return;
    }
    const button = $("[type=submit]", form);
    button.disabled = true;
    try {
      const answer = await send(form.dataset.method, asked.path, asked.body, form.matches(".run") ? keyOf(form, asked.body) : {});
      if (!answer.ok) {
        const { text, where } = await refusal(answer);
        const name = /^(?:body\.|path\/)?(\w+)/.exec(where)?.[1];
        refuse(text, name && $(`[name="${name}"]`, form));
        return;
      }
      const found = await answer.json().catch(() => ({}));
      if (found[form.dataset.once]) { reveal(form, found[form.dataset.once]); return; }
      form.closest("dialog")?.close();
      delete form.dataset.key;
      const goes = form.dataset.goesTo.replace(/\{(\w+)\}/, (_, name) => encodeURIComponent(found[name] ?? ""));
      if (goes) { wanted = false; location.href = at(goes); }  // what is here may be gone
      else if ($("#execution")) { tell("Done."); refresh(); }
      else location.reload();
    } catch { refuse("The server cannot be reached. Try again."); }
    finally { button.disabled = false; }
  };

  // A secret stands in one place until the dialog closes, and then nowhere. Escape, pressed too early, would lose it.
  const reveal = (form, text) => {
    const dialog = form.closest("dialog");
    const place = $("[data-says=once]", dialog);
    place.textContent = text;
    form.hidden = true;
    $(".once", dialog).hidden = false;
    if (!dialog.open) dialog.showModal();  // it was closed before the answer came
    $("[data-copies=once]", dialog).focus();
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => { place.textContent = ""; location.reload(); });
    addEventListener("pagehide", () => { place.textContent = ""; });
  };

  document.addEventListener("click", (event) => {
    const target = event.target.closest("button, a");
    if (!target) return;
    const { opens, copy, copies, off, bulk, closes } = target.dataset;
    if (opens) {
      const dialog = document.getElementById(opens);
      show($("form", dialog), snippets);
      dialog.showModal();
    } else if (copy !== undefined) copied(target, copy);
    else if (copies) copied(target, $(`[data-says=${copies}]`, target.closest("form, dialog")).textContent);
    else if (closes !== undefined) target.closest("dialog").close();
    else if (off) tell(off);
    else if (bulk) openBulk(target);
  });
  document.addEventListener("submit", (event) => {
    if (event.target.matches("form.act")) { event.preventDefault(); act(event.target); }
  });
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form.act");
    if (form) show(form, snippets);
  });

  // A form that stands open on its page.
  addEventListener("pageshow", () => { for (const form of $$("form.act.open")) show(form, snippets); });

  // ── Running a reasoner: fields made from its schema, or JSON. Either way one JSON text is sent, that of the editor ──

  // The members of a JSON object as the letters that were typed.
  const membersOf = (text) => {
    const value = JSON.parse(text);
    if (value === null || typeof value !== "object" || Array.isArray(value)) throw new TypeError("it is no object");
    const found = new Map();
    let [depth, start, name] = [0, -1, ""];
    for (const { 0: mark, index } of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]/g)) {
      if (depth === 1 && start < 0 && mark[0] === '"') name = JSON.parse(mark);
      else if (depth === 1 && mark === ":") start = index + 1;
      else if (depth === 1 && (mark === "," || mark === "}") && start >= 0) {
        found.set(name, text.slice(start, index).trim());
        start = -1;
      }
      if (mark === "{" || mark === "[") depth += 1;
      else if (mark === "}" || mark === "]") depth -= 1;
    }
    return found;
  };

  const controls = (form) => $$("[data-field]", form).map((control) => ({ control, ...JSON.parse(control.dataset.field) }));
  const typed = ({ control, kind }) => {
    if (control.value === "" || (kind !== "text" && !control.value.trim())) return undefined;
    return kind === "text" ? JSON.stringify(control.value) : control.value.trim();
  };
  const flaw = (field, raw) => {
    if (raw === undefined) return field.required ? "This is required." : "";
    let value;
    try { value = JSON.parse(raw); } catch (error) {
      return field.kind === "number" || field.kind === "integer" ? "This takes a number, such as 4." : `This is no JSON: ${error.message}.`;
    }
    if (value === null && field.nullable) return "";
    if (field.choices && !field.choices.some((one) => JSON.stringify(JSON.parse(one)) === JSON.stringify(value))) return `One of ${field.choices.join(", ")}.`;
    if (field.kind === "text" && typeof value !== "string") return "This takes a text.";
    if (field.kind === "boolean" && typeof value !== "boolean") return "This takes true or false.";
    if ((field.kind === "number" || field.kind === "integer") && typeof value !== "number") return "This takes a number, such as 4.";
    if (field.kind === "integer" && !Number.isInteger(value)) return "This takes a whole number.";
    if (field.kind === "array" && !Array.isArray(value)) return "This takes a JSON array, such as [].";
    if (field.kind === "object" && (value === null || typeof value !== "object" || Array.isArray(value))) return "This takes a JSON object, such as {}.";
    if (typeof value === "number" && value < field.minimum) return `At least ${field.minimum}.`;
    if (typeof value === "number" && value > field.maximum) return `At most ${field.maximum}.`;
    if (typeof value === "string" && [...value].length < field.shortest) return `At least ${field.shortest} characters.`;
    if (typeof value === "string" && [...value].length > field.longest) return `At most ${field.longest} characters.`;
    return "";
  };
  const mark = (control, text) => {
    const said = document.getElementById(control.getAttribute("aria-describedby").split(" ")[0]);
    said.textContent = text;
    said.hidden = !text;
    if (text) control.setAttribute("aria-invalid", "true"); else control.removeAttribute("aria-invalid");
  };
  const byFields = (form) => $("[name=way]:checked", form)?.value === "fields";
  const compose = (form) => {
    const pairs = controls(form).map((one) => [one.name, typed(one)]).filter(([, raw]) => raw !== undefined);
    form.elements.input.value = pairs.length ? `{${pairs.map(([name, raw]) => `${JSON.stringify(name)}: ${raw}`).join(", ")}}` : "{}";
  };
  // Whether it can be sent. If not, each flaw stands beside what has it.
  const fits = (form) => {
    const fields = controls(form);
    const editor = form.elements.input;
    mark(editor, "");
    if (byFields(form)) {
      compose(form);
      for (const one of fields) mark(one.control, flaw(one, typed(one)));
    } else {
      for (const one of fields) mark(one.control, "");
      try {
        const members = membersOf(editor.value.trim() || "{}");
        mark(editor, fields.map((one) => [one.name, flaw(one, members.get(one.name))]).filter(([, text]) => text).map((one) => one.join(": ")).join(" "));
      } catch (error) { mark(editor, `The input is a JSON object, and this is none: ${error.message}.`); }
    }
    const wrong = $("[aria-invalid]:not([hidden])", form);
    wrong?.focus();
    return !wrong;
  };
  // From JSON to fields only if they can show all of it: nothing that was typed is lost.
  const fill = (form) => {
    const members = membersOf(form.elements.input.value.trim() || "{}");
    const fields = controls(form);
    const values = new Map();
    for (const [name, raw] of members) {
      const field = fields.find((one) => one.name === name);
      const value = JSON.parse(raw);
      const choice = field?.control.tagName === "SELECT" && [...field.control.options].find((one) => one.value && JSON.stringify(JSON.parse(one.value)) === JSON.stringify(value));
      if (!field || (field.control.tagName === "SELECT" && !choice) || (field.kind === "text" && (typeof value !== "string" || !value))) throw new TypeError(`no field can show ${name}`);
      values.set(field, choice ? choice.value : field.kind === "text" ? value : raw);
    }
    for (const field of fields) field.control.value = values.get(field) ?? "";
  };
  const turnTo = (form, way) => {
    for (const part of $$("[data-way]", form)) part.hidden = part.dataset.way !== way;
  };
  // A lost answer, and the same asked again, is one execution.
  const keyOf = (form, body) => {
    if (form.dataset.asked !== body || !form.dataset.key) {
      form.dataset.key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      form.dataset.asked = body;
    }
    return { "Idempotency-Key": form.dataset.key };
  };
  const running = $("form.run");
  if (running) {
    running.addEventListener("change", (event) => {
      if (event.target.name !== "way") return;
      const said = $("#way-said", running);
      said.hidden = true;
      if (event.target.value === "json") compose(running);
      else {
        try { fill(running); } catch (error) {
          said.textContent = `It stays JSON: ${error.message}.`;
          said.hidden = false;
          $("[name=way][value=json]", running).checked = true;
          return;
        }
      }
      turnTo(running, event.target.value);
      show(running, snippets);
    });
    for (const kind of ["input", "change"]) running.addEventListener(kind, (event) => {
      if (event.target.matches("[data-field]")) { compose(running); mark(event.target, ""); show(running, snippets); }
      else if (event.target.name === "input") mark(event.target, "");
    });
    // A reload keeps what was typed (a browser does), and what it was typed into.
    addEventListener("pageshow", () => {
      if (byFields(running)) compose(running);
      turnTo(running, byFields(running) ? "fields" : "json");
      show(running, snippets);
    });
  }

  // ── Many at once ───────────────────────────────────────────────────────────────────────────────────────────────

  const bar = $("#bulk");
  const picked = () => $$("input[name=pick]:checked").map((box) => box.value);
  const everything = () => $("input[name=all]", bar)?.checked;
  const choose = () => {
    if (!bar) return;
    const n = picked().length;
    $(".chosen", bar).textContent = everything() ? "all that match" : n ? `${n} chosen` : "none chosen";
    for (const button of $$("[data-bulk]", bar)) {
      const why = bar.dataset.off || (n || everything() ? "" : "Choose some first.");
      button.setAttribute("aria-disabled", why ? "true" : "false");
      button.title = why;
    }
  };
  document.addEventListener("change", (event) => {
    if (event.target.id === "pick-all") for (const box of $$("input[name=pick]")) box.checked = event.target.checked;
    if (event.target.closest("#bulk, #list")) choose();
  });
  choose();

  const bulkBody = (action, more) => {
    const filter = everything() ? JSON.parse(bar.dataset.filter) : { ids: picked() };
    return { action, ...(Object.keys(filter).length ? { filter } : { all: true }), ...more };
  };
  const options = { status: "--status", target: "--target", node_id: "--node", run_id: "--run", session_key: "--session", actor_key: "--actor",
    error_class: "--error-class", created_after: "--created-after", created_before: "--created-before", ended_after: "--ended-after", ended_before: "--ended-before", ids: "--id", reason: "--reason" };
  const bulkSnippets = (form) => {
    const { action, filter = {}, all, reason } = bulkBody(form.dataset.action, form.elements.reason.value ? { reason: form.elements.reason.value } : {});
    const given = Object.entries({ ...filter, ...(reason ? { reason } : {}) });
    const flags = given.flatMap(([name, value]) => [value].flat().map((one) => `${options[name]} ${shell(one)}`));
    const pairs = given.map(([name, value]) => `${name}=${Array.isArray(value) ? `[${value.map(python).join(", ")}]` : python(value)}`);
    return {
      curl: curl(bar, "POST", "api/v1/bulk", JSON.stringify({ action, ...(all ? { all } : { filter }), ...(reason ? { reason } : {}) })),
      cli: ["controlplane bulk", action, ...(all ? ["--all"] : []), ...flags, ...server()].join(" "),
      python: `from controlplane_sdk import Client\n\nasync with Client(${python(here)}) as client:\n    await client.bulk.${action}(${[...(all ? ["all=True"] : []), ...pairs].join(", ")})`,
    };
  };
  const openBulk = async (button) => {
    if (button.getAttribute("aria-disabled") === "true") { tell(button.title); return; }
    const dialog = $("#bulk-do");
    const form = $("form", dialog);
    const [go, said, count, typed] = [$("[type=submit]", form), $(".said", form), $(".count", form), $(".typed", form)];
    form.dataset.action = button.dataset.bulk;
    $("#bulk-title").textContent = `${button.textContent} many`;
    said.hidden = true; go.disabled = true; typed.hidden = true; form.elements.typed.value = "";
    count.textContent = "Counting …";
    show(form, bulkSnippets);
    dialog.showModal();
    const answer = await send("POST", "api/v1/bulk", JSON.stringify(bulkBody(form.dataset.action, { dry_run: true })));
    if (!answer.ok) { count.textContent = ""; said.textContent = await problem(answer); said.hidden = false; return; }
    const { matched, exact } = await answer.json();
    count.textContent = matched ? `${matched.toLocaleString("en")}${exact ? "" : " or more"} would be meant.` : "Nothing would be meant: none of them can be.";
    form.dataset.matched = matched;
    if (matched && form.dataset.action === "cancel" && everything()) {
      typed.hidden = false;
      $("b", typed).textContent = "cancel";
    } else go.disabled = !matched;
  };
  const bulkForm = $("#bulk-do form");
  bulkForm?.addEventListener("input", () => {
    if (!$(".typed", bulkForm).hidden) $("[type=submit]", bulkForm).disabled = bulkForm.elements.typed.value.trim() !== "cancel";
    show(bulkForm, bulkSnippets);
  });
  bulkForm?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const more = bulkForm.elements.reason.value.trim() ? { reason: bulkForm.elements.reason.value.trim() } : {};
    const answer = await send("POST", "api/v1/bulk", JSON.stringify(bulkBody(bulkForm.dataset.action, more)));
    if (answer.ok) location.href = at(`bulk/${(await answer.json()).bulk_id}`);
    else { const said = $(".said", bulkForm); said.textContent = await problem(answer); said.hidden = false; }
  });

  // ── The list: a filter that leaves no empty words in the address, and views: names for addresses, kept by the browser ──

  const filter = $("#filter");
  filter?.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) if (!value) formData.delete(name);
  });
  const narrow = matchMedia("(max-width: 760px)");
  const fold = () => { if ($("#fold")) $("#fold").open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();

  const views = $("#views");
  const VIEWS_MAX = 50;
  const shelf = `controlplane.views ${new URL(at("")).pathname}`;
  const addressOf = (search) => new URLSearchParams([...new URLSearchParams(search)].filter(([name, value]) => value && name !== "cursor")).toString();
  const kept = () => {
    try {
      const found = JSON.parse(localStorage.getItem(shelf) || "[]");
      return Array.isArray(found) ? found.filter((one) => typeof one?.name === "string" && typeof one?.query === "string") : [];
    } catch { return []; }
  };
  const keep = (all) => {
    try { localStorage.setItem(shelf, JSON.stringify(all)); } catch { tell("The browser does not let this page keep anything."); }
    drawViews();
  };
  const drawViews = () => {
    const all = kept();
    $(".none", views).hidden = all.length > 0;
    $("ul", views).replaceChildren(...all.map(({ name, query }) => {
      const [item, link, drop] = ["li", "a", "button"].map((tag) => document.createElement(tag));
      link.href = at("executions") + (query ? `?${addressOf(query)}` : "");
      link.textContent = name;
      if (addressOf(query) === addressOf(location.search)) link.setAttribute("aria-current", "page");
      drop.type = "button";
      drop.className = "copy-less";
      drop.textContent = "×";
      drop.setAttribute("aria-label", `Forget the view ${name}`);
      drop.addEventListener("click", () => keep(kept().filter((one) => one.name !== name)));
      item.append(link, drop);
      return item;
    }));
  };
  if (views) {
    views.hidden = false;
    drawViews();
    $("form", views).addEventListener("submit", (event) => {
      event.preventDefault();
      const name = event.target.elements.view.value.trim();
      const others = kept().filter((one) => one.name !== name);
      if (!name) return;
      if (others.length >= VIEWS_MAX) { tell(`There are ${VIEWS_MAX} views already: forget one first.`); return; }
      keep([...others, { name, query: addressOf(location.search) }].sort((one, two) => one.name.localeCompare(two.name)));
      event.target.reset();
    });
    addEventListener("storage", (event) => { if (event.key === shelf) drawViews(); });
  }
  document.addEventListener("click", (event) => {
    for (const menu of $$(".menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of $$(".menu[open]")) { menu.open = false; $("summary", menu).focus(); }
  });

  // ── Live: the stream says which execution moved; the page asks for that part of itself again ──────────────────────

  const button = $("#live");
  const page = $("#execution");
  const list = $("#list");
  const whole = $("[data-again]");
  let stream = null;
  let wanted = Boolean(button);
  let due = false;
  let busy = false;
  let took = 0;
  const moved = new Set();

  const refreshList = async (ids) => {
    const known = ids.filter((id) => document.getElementById(id));
    if (known.length) {
      const text = await ask(`ui/x/executions/rows?columns=${list.dataset.columns}&ids=${known.slice(0, 200).join(",")}`);
      if (text) for (const row of $$("tr", elements(`<table>${text}</table>`))) {
        const old = document.getElementById(row.id);
        if (old) morph(old, row.outerHTML, "outerHTML");
      }
    }
    const first = $("tbody tr", list);
    if (ids.length > known.length && first && !list.dataset.paged) {
      const query = list.dataset.query;
      const text = await ask(`ui/x/executions/new?${query ? `${query}&` : ""}above=${first.id}`);
      if (text !== null) $("#new").innerHTML = text;
    }
  };
  const refresh = async () => {
    const id = page.dataset.id;
    const head = await ask(`ui/x/executions/${id}/head`);
    if (head) {
      const before = $$("#head [data-opens]").map((one) => one.dataset.opens).join();
      morph($("#head"), head);
      const after = $$("#head [data-opens]").map((one) => one.dataset.opens).join();
      if (before !== after && !$("dialog[open]")) {
        const whole = new DOMParser().parseFromString(await (await fetch(location.href, { headers: OURS })).text(), "text/html");
        $("#dialogs").innerHTML = $("#dialogs", whole).innerHTML;
      }
    }
    const panel = $("#panel");
    if (panel.dataset.tab === "logs") { await tail(); return; }
    if (["data"].includes(panel.dataset.tab) && page.dataset.over) return;
    if ($("dialog[open]", panel)) return;
    const query = new URLSearchParams(location.search);
    query.delete("tab");
    const text = await ask(`ui/x/executions/${id}/tabs/${panel.dataset.tab}?${query}`);
    if (text && $("#panel").dataset.tab === panel.dataset.tab) morph($("#tab"), text);
  };

  // A page without parts of its own is asked for again, as it stands in the address.
  const again = async () => {
    if ($("dialog[open]")) return;
    const answer = await fetch(location.href, { headers: OURS });
    const part = $("[data-again]", new DOMParser().parseFromString(await answer.text(), "text/html"));
    if (answer.ok && part && !$("dialog[open]")) morph(whole, part.innerHTML);
  };

  const turn = async () => {
    if (busy || !moved.size || document.hidden || !wanted) return;
    busy = true;
    const began = performance.now();
    const ids = [...moved];
    moved.clear();
    try {
      if (list) await refreshList(ids);
      else if (page) await refresh();
      else if (whole) await again();
      else { const text = await ask("ui/x/overview"); if (text) morph($("#overview"), text); }
    } catch { /* the stream says when the server is there again */ }
    finally { busy = false; took = performance.now() - began; }
    if (moved.size) later();
  };
  const later = () => {
    if (due) return;
    due = true;
    setTimeout(() => { due = false; turn(); }, Math.max(700, 4 * took));  // a tree of a thousand is not drawn all the time
  };
  const heard = (event) => {
    const said = JSON.parse(event.data);
    if (!said.execution_id) return;
    if (page && said.execution_id !== page.dataset.id && !($("#panel").dataset.tab === "children" || $("#panel").dataset.tab === "timeline")) return;
    if (page && said.execution_id !== page.dataset.id && said.run_id !== page.dataset.run) return;
    moved.add(said.execution_id);
    later();
  };
  // What was missed while nobody listened is seen by looking at all of it.
  const look = () => {
    if (list) for (const row of $$("tbody tr", list)) moved.add(row.id);
    else moved.add(page ? page.dataset.id : "all");
    later();
  };
  const listen = () => {
    stream?.close();
    stream = null;
    if (!button || !wanted || document.hidden) return;
    stream = new EventSource(at("api/ui/v1/executions/events"));
    stream.addEventListener("message", heard);
    stream.addEventListener("open", () => {
      if (button.classList.contains("lost")) look();
      button.classList.remove("lost");
      $(".word", button).textContent = "live";
    });
    stream.addEventListener("error", () => {
      button.classList.add("lost");
      $(".word", button).textContent = "not connected";
      if (stream?.readyState === EventSource.CLOSED) setTimeout(listen, 5000);  // a proxy has answered in our place
    });
  };
  button?.addEventListener("click", () => {
    wanted = !wanted;
    button.setAttribute("aria-pressed", String(wanted));
    $(".word", button).textContent = wanted ? "live" : "paused";
    listen();
  });
  document.addEventListener("visibilitychange", () => {
    listen();
    if (!document.hidden && wanted && button) look();
  });
  addEventListener("pagehide", () => stream?.close());
  listen();
  // A heartbeat is no event: who shows nodes looks at them every few seconds.
  if (whole) setInterval(() => { if (wanted && !document.hidden) look(); }, 3000);

  // ── The tabs of an execution, and its log ──────────────────────────────────────────────────────────────────────

  page?.addEventListener("click", async (event) => {
    const tab = event.target.closest("[data-tab]:is(a)");
    if (!tab || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState({}, "", tab.href);
    await openTab();
    $(`.tabs a[data-tab=${tab.dataset.tab}]`)?.focus();
  });
  const openTab = async () => {
    const query = new URLSearchParams(location.search);
    const name = query.get("tab") || "timeline";
    query.delete("tab");
    const text = await ask(`ui/x/executions/${page.dataset.id}/tabs/${encodeURIComponent(name)}?${query}`);
    if (text) { $("#tab").innerHTML = text; logs(); }
  };
  if (page) addEventListener("popstate", openTab);

  const lines = async () => {
    const log = $("#log");
    if (!log || log.dataset.asks) return 0;
    log.dataset.asks = "yes";
    try {
      const last = $$(".line", log).at(-1)?.dataset.id || "0";
      const attempt = $("#log-attempt").value;
      const text = await ask(`ui/x/executions/${page.dataset.id}/lines?after=${last}&attempt=${attempt}`);
      if (!text) return 0;
      const fresh = elements(text);
      const n = $$(".line", fresh).length;
      $$("[data-more-lines]", log).forEach((one) => one.parentElement.remove());
      if (n) $("#log-empty")?.remove();
      log.append(fresh);
      filterLog();
      return n;
    } finally { delete log.dataset.asks; }
  };
  const tail = async () => {
    const log = $("#log");
    if (!log || !$("#log-follow").checked) return;
    let n = await lines();
    while (n && $("[data-more-lines]", log) && $("#log-follow").checked) n = await lines();
    if ($("#log-follow").checked) log.scrollTop = log.scrollHeight;
  };
  const filterLog = () => {
    const level = $("#log-level").value;
    const text = $("#log-text").value.toLowerCase();
    const loud = { "": null, warning: ["warning", "warn", "error", "critical"], error: ["error", "critical"] }[level];
    for (const line of $$("#log .line")) {
      line.classList.toggle("off", Boolean((loud && !loud.includes(line.dataset.level)) || (text && !line.textContent.toLowerCase().includes(text))));
    }
  };
  const logs = () => {
    const log = $("#log");
    if (!log) return;
    filterLog();
    if ($("#log-follow").checked || new URLSearchParams(location.search).get("newest")) log.scrollTop = log.scrollHeight;
    // Who scrolls up wants to read, and who comes back to the end wants to go on.
    let was = log.scrollTop;
    log.addEventListener("scroll", () => {
      const end = log.scrollHeight - log.clientHeight - log.scrollTop < 24;
      if (log.scrollTop < was && !end) $("#log-follow").checked = false;
      else if (end && log.scrollTop > was && !page.dataset.over && !$("[data-more-lines]", log)) $("#log-follow").checked = true;
      was = log.scrollTop;
    });
  };
  document.addEventListener("input", (event) => { if (["log-level", "log-text"].includes(event.target.id)) filterLog(); });
  document.addEventListener("change", (event) => {
    if (event.target.id === "log-follow" && event.target.checked) {
      if ($("[data-more-lines]")) $("#log-newest").click(); else tail();
    }
    if (event.target.id === "log-attempt") {
      const url = new URL(location.href);
      for (const name of ["after", "before"]) url.searchParams.delete(name);
      if (event.target.value) url.searchParams.set("attempt", event.target.value); else url.searchParams.delete("attempt");
      history.pushState({}, "", url);
      openTab();
    }
  });
  document.addEventListener("click", (event) => {
    if (event.target.matches("[data-more-lines]")) lines();
    if (event.target.id === "log-first-error") {
      const line = $("#log .level-error, #log .level-critical");
      if (line) { line.scrollIntoView({ block: "center" }); location.hash = line.id; } else tell("No error was logged, as far as the lines are here.");
    }
  });
  logs();
  // Lines are no events: while somebody follows them, they are asked for.
  if (page) setInterval(() => {
    if (!document.hidden && wanted && $("#log") && !page.dataset.over) tail();
  }, 2000);
  const bulkState = $("#bulk-state");
  if (bulkState && !bulkState.dataset.over) setInterval(() => { if (!document.hidden && !$("dialog[open]")) location.reload(); }, 2000);

  // ── Keys ───────────────────────────────────────────────────────────────────────────────────────────────────────

  let before = "";
  const places = { o: "", e: "executions", r: "reasoners", n: "nodes", l: "limits", s: "schedules", w: "webhooks" };
  const rows = () => $$(".list tbody tr");
  document.addEventListener("keydown", (event) => {
    const find = $(".find input");
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") { event.preventDefault(); find.focus(); find.select(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
    const row = $("tr.here");
    const all = rows();
    const go = (next) => { if (!next) return; row?.classList.remove("here"); next.classList.add("here"); $("a", next)?.focus({ preventScroll: true }); next.scrollIntoView({ block: "nearest" }); };
    if (before === "g" && event.key in places) { location.href = at(places[event.key]) ; before = ""; return; }
    before = event.key;
    if (event.key === "/") { event.preventDefault(); find.focus(); }
    else if (event.key === "?") $("#keys").showModal();
    else if (event.key === "j") go(row ? all[all.indexOf(row) + 1] : all[0]);
    else if (event.key === "k") go(row ? all[all.indexOf(row) - 1] : all.at(-1));
    else if (event.key === "o" && row) $("a", row)?.click();
    else if (event.key === "x" && row) { const box = $("input[name=pick]", row); if (box) { box.checked = !box.checked; choose(); } }
  });
})();
