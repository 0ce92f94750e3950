// The browser's part of Sprocket: shows a view at once, tells the server about clicks in rendered panels, keeps the address
// bar and the title true. No state of its own: what a page shows is in its address and in the history. It stands in the page
// itself (`layout.head`): it is there before the first control is, so that no click is too early for it.
(() => {
  if (window.sprocket) return;
  const VIEWS = ["create", "queue", "gallery", "models", "train"];
  const THEME = "sprocket-theme";
  const PATIENCE_MS = 60000;

  const viewOf = (search) => {
    const view = new URLSearchParams(search).get("view");
    return VIEWS.includes(view) ? view : "create";
  };

  function show(view) {
    document.documentElement.dataset.view = view;
    document.querySelectorAll(".nav a").forEach((a) =>
      a.dataset.page === view ? a.setAttribute("aria-current", "page") : a.removeAttribute("aria-current"));
  }

  // One event at a time, whoever began it: the opening of the page, a click, Generate, a poll. The answers of two at once could
  // arrive in the wrong order and leave the older page on the screen. What is clicked meanwhile waits here, in order.
  let trigger = null;
  let busy = "opening";
  let patience = null;
  const waiting = [];
  let moving = false;  // a form was sent whose answer is at another address
  const typed = new Map();

  // A redraw costs the server far more than the question whether there is anything to redraw. Asked less often while nothing moves.
  const QUIET_VIEWS = ["create", "queue", "gallery"];  // what the others show is not all in the history
  const PULSE_MS = 500, SLOWEST_MS = 2000;
  let drawn = null;  // what the pulse said before the last redraw
  let still = 0;     // answers in a row that said the same
  let resting = 0;   // until then, by performance.now()
  let asking = false;

  async function pulse() {
    if (busy || !trigger || waiting.length || asking || performance.now() < resting) return;
    if (QUIET_VIEWS.includes(viewOf(location.search)) && !document.querySelector('#refine [data-state="running"]')) {
      asking = true;
      try {
        const answer = await fetch("/pulse");
        const mark = answer.ok ? (await answer.json()).mark : null;
        const same = mark !== null && mark === drawn;
        still = same ? still + 1 : 0;
        resting = performance.now() + (same ? Math.min(SLOWEST_MS, still * 100) - PULSE_MS / 2 : 0);
        if (same) return;
        if (busy || waiting.length) return;  // the click's answer is newer; the next tick asks again
        drawn = mark;
      } catch {
        drawn = null;  // the redraw finds out what is wrong
      } finally {
        asking = false;
      }
    }
    if (busy || waiting.length) return;
    begin("poll");
    trigger("tick", { search: location.search });
  }

  function send(act, data = {}) {
    const last = waiting.at(-1);
    if (act === "go" && last && last.act === "go") waiting.pop();
    if (act === "source" && last && last.act === "source") data.model = waiting.pop().model || data.model;
    waiting.push({ ...data, act, search: location.search });
    next();
  }

  function next() {
    if (busy || !trigger || !waiting.length) return;
    const { press, ...event } = waiting.shift();
    begin(press ? "generate" : "act");
    if (!press) return trigger("click", event);
    press.dataset.pressed = "now";
    press.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));  // click() does nothing inside a click()
    delete press.dataset.pressed;
  }

  // Gradio says of every event how it ended; `patience` is for the day it does not.
  function begin(what) {
    busy = what;
    clearTimeout(patience);
    patience = setTimeout(answered, PATIENCE_MS, what);
  }

  function answered(what, well = false) {
    if (busy !== what) return;
    clearTimeout(patience);
    if (what !== "poll" || !well) {  // what a click has begun is looked at soon, and once for sure
      drawn = null;
      resting = still = 0;
    }
    if (what === "opening") setTimeout(opened);  // the form is filled by then
    else free();
  }

  function free() {
    if (busy === "generate") document.documentElement.classList.remove("sending");
    if (!sending && ![...waiting].some(({ act }) => act === "take")) {
      document.documentElement.classList.remove("uploading");
      document.querySelectorAll("#form .source-progress").forEach((line) => { line.textContent = ""; });
    }
    busy = null;
    next();
  }

  // The opening's answer fills the form. What a quick person has typed before stays.
  function opened() {
    for (const [field, value] of typed) {
      if (field.value === value) continue;
      field.value = value;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
    typed.clear();
    free();
  }

  // Generate is gradio's own button. A press waits for its turn like any other click; a second one before the answer is none.
  function onGenerate(event) {
    const button = event.target.closest("#generate");
    if (!button || button.dataset.pressed) return;
    event.preventDefault();
    event.stopPropagation();
    if (document.documentElement.classList.contains("sending")) return;
    document.documentElement.classList.add("sending");
    waiting.push({ press: button });
    next();
  }

  function visit(href) {
    let search = new URL(href, location.origin).search;
    const stage = document.querySelector("#stage .stage");
    if (viewOf(search) === "create" && stage && stage.dataset.job && !/[?&]job=/.test(search)) search = "?view=create&job=" + stage.dataset.job;
    const theme = new URLSearchParams(location.search).get("__theme");
    const target = "/" + (theme && !search.includes("__theme") ? search + "&__theme=" + theme : search);
    if (target !== location.pathname + location.search) history.pushState(null, "", target);
    const changed = viewOf(search) !== document.documentElement.dataset.view;
    show(viewOf(search));
    if (changed) window.scrollTo(0, 0);
  }

  function dark(on) {
    document.body.classList.toggle("dark", on);
    document.documentElement.style.colorScheme = on ? "dark" : "light";
  }

  const LOCAL = {
    theme() {
      const on = !document.body.classList.contains("dark");
      localStorage.setItem(THEME, on ? "dark" : "light");
      dark(on);
    },
    // A file for the source panel, or a clip whose settings are wanted.
    choose(element) {
      const { purpose, accept } = element.dataset;
      const input = Object.assign(document.createElement("input"), { type: "file", accept });
      const done = () => input.remove();
      input.hidden = true;
      input.addEventListener("change", () => { if (input.files[0]) upload(input.files[0], purpose); done(); });
      input.addEventListener("cancel", done);
      document.body.append(input);  // Safari opens none outside the page
      input.click();
    },
    // Files to learn from.
    choose_set(element) {
      const input = Object.assign(document.createElement("input"), { type: "file", accept: element.dataset.accept, multiple: true });
      const done = () => input.remove();
      input.hidden = true;
      input.addEventListener("change", () => { uploadSet([...input.files]); done(); });
      input.addEventListener("cancel", done);
      document.body.append(input);
      input.click();
    },
    copy(element) {
      const text = element.closest("details").querySelector("pre").textContent;
      // An address without https, as in a home's network, has no clipboard.
      const copied = navigator.clipboard ? navigator.clipboard.writeText(text) : Promise.reject();
      copied.then(() => { element.textContent = "Copied"; }, () => { element.textContent = "Copy failed"; });
    },
  };

  // What a person has unfolded stays so when its panel is redrawn: the markup does not say `open`, so gradio takes it away.
  const unfolded = new WeakSet();
  new MutationObserver((changes) => changes.forEach(({ target }) => { if (!target.open && unfolded.has(target)) target.open = true; }))
    .observe(document.documentElement, { attributes: true, attributeFilter: ["open"], subtree: true });

  // A field that was typed in keeps what was typed when its panel is redrawn. In a set the server has the last word, but rows are
  // redrawn by position: a caption that was typed and not yet saved belongs to its clip, and goes with it to another row.
  const drafts = new Map();
  const captioned = (form) => form.dataset.set + "/" + form.dataset.clip;
  new MutationObserver((changes) => {
    const moved = new Map(changes.filter(({ target, attributeName }) => attributeName === "data-clip" && target.matches(".caption-row form"))
      .map(({ target, oldValue }) => [target, oldValue]));
    changes.forEach(({ target }) => {
      const field = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
      if (!field || !field.matches("#datasets :is(input, textarea)") || field === document.activeElement || moved.has(field.form)) return;
      if (field.matches(".caption-row textarea")) drafts.delete(captioned(field.form));
      field.value = field.defaultValue;
    });
    const typing = [...moved].find(([form]) => form.elements.caption === document.activeElement);
    moved.forEach((_before, form) => { form.elements.caption.value = drafts.get(captioned(form)) ?? form.elements.caption.defaultValue; });
    const row = typing && document.querySelector(`.caption-row form[data-clip="${CSS.escape(typing[1] || "")}"] textarea`);
    if (row) row.focus();
  }).observe(document.documentElement, { attributes: true, attributeFilter: ["value", "data-clip"], attributeOldValue: true,
    childList: true, characterData: true, subtree: true });
  document.addEventListener("input", ({ target }) => {
    if (target.matches(".caption-row textarea")) drafts.set(captioned(target.form), target.value);
  });

  function fold(details) {
    unfolded.delete(details);
    details.open = false;
  }

  function onClick(event) {
    const element = event.target.closest("[data-act]");
    const summary = event.target.closest("summary");
    // The second half of a double click asks for no second clip.
    const asks = event.target.closest('[data-act="again"], [data-act="duplicate"], form[data-act] button[type="submit"]');
    if (event.detail > 1 && asks) return event.preventDefault();
    if (summary) unfolded[summary.parentElement.open ? "delete" : "add"](summary.parentElement);
    if (summary && summary.parentElement.dataset.open && !summary.parentElement.open) send(summary.parentElement.dataset.open);
    document.querySelectorAll("details.menu[open]").forEach((menu) => { if (!menu.contains(event.target)) fold(menu); });
    if (!element || element.tagName === "FORM") return;
    if (element.tagName === "A" && (event.ctrlKey || event.metaKey || event.shiftKey || event.button)) return;
    event.preventDefault();
    const { act, ...data } = element.dataset;
    if (LOCAL[act]) return LOCAL[act](element);
    if (data.sure) return ask(data, () => {
      if (data.view) visit("/?view=" + data.view);
      send(act, data);
    });
    if (element.tagName === "A") {
      visit(element.getAttribute("href"));
      return send("go");
    }
    if (data.view) visit("/?view=" + data.view);
    if (act === "project") fold(element.closest("details"));
    if (act === "cancel") pressed(element, "Stopping…");
    if (element.dataset.busy) pressed(element, element.dataset.busy);
    send(act, data);
    if (["remix", "restore", "take_back", "edit", "example", "refine_undo", "refine_use"].includes(act)) focusPrompt();
  }

  function onSubmit(event) {
    const form = event.target.closest("form[data-act]");
    if (!form) return;
    event.preventDefault();
    const fields = Object.fromEntries([...new FormData(form, event.submitter)].filter(([, value]) => value !== ""));
    const { act, ...data } = { ...form.dataset, ...(event.submitter || form).dataset };
    if (data.view) visit("/?view=" + data.view);
    if (act === "search") {
      visit("/?" + new URLSearchParams(fields));
      return send("go");
    }
    if (act === "train_start") moving = true;
    if (act === "dataset_caption") drafts.delete(captioned(form));
    if (act === "project_new" || act === "model_add") form.reset();
    if (form.closest("details") && !form.dataset.stay) fold(form.closest("details"));
    send(act, { ...data, ...fields });
    if (act === "extend") focusPrompt();
  }

  // Bytes first, beside the line of events, then one event that says what they are for. One file at a time: a newer one replaces it.
  let sending = null;
  function upload(file, purpose) {
    const { most, large } = document.querySelector("#restore-row [data-most]").dataset;
    if (file.size > Number(most)) return send("untaken", { say: large, purpose });
    if (sending) sending.abort();
    const say = (words) => {
      const line = document.querySelector(`#${purpose === "lora" ? "loras" : "source"} .source-progress`);
      if (line) line.textContent = words;
    };
    const request = sending = new XMLHttpRequest();
    const over = (act, data) => {
      if (sending !== request) return;
      sending = null;
      send(act, data);
    };
    document.documentElement.classList.add("uploading");
    say("Taking in " + file.name.slice(0, 60) + "…");
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      if (sending === request && loaded < total) say(`Taking in ${file.name.slice(0, 60)}… ${Math.floor(100 * loaded / total)} %`);
    });
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* said below */ }
      if (answer.upload) return over("take", { upload: answer.upload, purpose, called: file.name });
      over("untaken", { purpose, say: answer.error || "The file was not taken in (answer " + request.status + "). Try again." });
    });
    request.addEventListener("error", () => over("untaken", { purpose, say: "The file did not arrive: the studio does not answer. Is it still running?" }));
    request.open("POST", "/media/uploads");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.send(file);
  }

  // Several files one after the other, then one event that names them all.
  let gathering = false;
  async function uploadSet(files) {
    if (gathering || !files.length) return;
    const most = Number(document.querySelector(".set-drop").dataset.most);
    const say = (words) => { const line = document.querySelector(".set-progress"); if (line) line.textContent = words; };
    const large = files.find((file) => file.size > most);
    if (large) return send("dataset_untaken", { say: `${large.name.slice(0, 60)} has ${Math.ceil(large.size / 1e6)} MB; at most ${Math.floor(most / 1e6)} MB come in through the page. Put it into a folder on this machine, and use sprocket dataset import.` });
    gathering = true;
    const sent = [];
    try {
      for (const file of files) {
        say(`Taking in ${sent.length + 1} of ${files.length}: ${file.name.slice(0, 60)}`);
        const answer = await fetch("/media/uploads", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
        const { upload, error } = await answer.json();
        if (!upload) throw new Error(error || "a file was not taken in");
        sent.push({ upload, name: file.name });
      }
      send("dataset_take", { files: sent });
    } catch (error) {
      send("dataset_untaken", { say: `The files did not arrive (${error.message}). Try again.` });
    } finally {
      gathering = false;
      say("");
    }
  }

  // Extend: the video shows the frame that the slider names, and a paused video tells the slider.
  const scene = (element) => {
    const whole = element.closest(".stage, .clip");
    return { video: whole && whole.querySelector("video.result"), form: whole && whole.querySelector(".extend form") };
  };

  function scrub(slider) {
    const { video, form } = scene(slider);
    slider.closest("label").querySelector("output").textContent = slider.value;
    if (!video) return;
    video.pause();
    video.currentTime = (Number(slider.value) + 0.5) / Number(form.dataset.fps);
  }

  function frameOf(video) {
    const { form } = scene(video);
    if (!form || !video.paused || !form.parentElement.open) return;
    const slider = form.elements.at;
    slider.value = Math.floor(video.currentTime * Number(form.dataset.fps) + 0.01);
    form.querySelector("output").textContent = slider.value;
  }

  // A question before something is gone. Built here and not in a panel: a redraw must not change what is being asked.
  function ask({ sure, why, yes }, then) {
    const box = document.createElement("dialog");
    box.className = "sure";
    box.innerHTML = '<h2 id="sure-title"></h2><p></p><div><button type="button" class="btn bad"></button><button type="button" class="btn" autofocus>Keep it</button></div>';
    box.setAttribute("aria-labelledby", "sure-title");
    const [go, keep] = box.querySelectorAll("button");
    box.querySelector("h2").textContent = sure;
    box.querySelector("p").textContent = why;
    go.textContent = yes;
    go.addEventListener("click", () => { box.close(); then(); });
    keep.addEventListener("click", () => box.close());
    box.addEventListener("close", () => box.remove());
    (document.querySelector(".gradio-container") || document.body).append(box);
    box.showModal();
  }

  // The forecast is another: so is the cost of every choice, where it is being looked at. Once things have come to rest.
  let settling = null;
  function stale() {
    clearTimeout(settling);
    if (document.querySelector("#choices details[open]")) settling = setTimeout(send, 700, "choices");
  }

  // The refiner's answer is there: it is fetched, once. Where Generate waits for it, it is pressed when the form says it.
  const fetched = new Set();
  function refined(element) {
    const panel = element.querySelector(".refine");
    if (!panel) return;
    const { refined: key, press } = panel.dataset;
    if (key && !fetched.has(key)) {
      fetched.add(key);
      send("refine_take", { key });
    }
    if (press && !fetched.has(press + "!")) {
      fetched.add(press + "!");
      setTimeout(() => document.querySelector("#generate").click(), 100);
    }
  }

  // Feedback before the server has answered; the answer redraws the panel.
  function pressed(element, word) {
    const label = element.textContent;
    element.textContent = word;
    element.disabled = true;
    setTimeout(() => { if (element.isConnected && element.textContent === word) { element.textContent = label; element.disabled = false; } }, 3000);
  }

  function focusPrompt() {
    const box = document.querySelector("#field-prompt textarea");
    if (box) { box.focus({ preventScroll: true }); document.querySelector("#form").scrollIntoView({ block: "nearest" }); }
  }

  function onKey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && viewOf(location.search) === "create") {
      event.preventDefault();
      document.querySelector("#generate").click();
    }
    if (event.key === "Escape") document.querySelectorAll("details.menu[open]").forEach((menu) => {
      fold(menu);
      menu.querySelector("summary").focus();
    });
  }

  // A file dropped anywhere on Create: on the source panel to start from, a LoRA, elsewhere for whatever it is good for.
  function onDrop(event) {
    const file = event.dataTransfer && event.dataTransfer.files[0];
    document.documentElement.classList.remove("dropping");
    if (file && viewOf(location.search) === "train" && document.querySelector(".set-drop")) {
      event.preventDefault();
      event.stopPropagation();
      return void uploadSet([...event.dataTransfer.files]);
    }
    if (!file || viewOf(location.search) !== "create") return;
    event.preventDefault();
    event.stopPropagation();
    const lora = /\.safetensors$/i.test(file.name) || event.target.closest(".loras");
    upload(file, lora ? "lora" : event.target.closest(".dropzone, .source-body") ? "input" : "any");
  }

  // A card plays while it is pointed at or focused. The video is added and removed only when that changes: replacing it under
  // a pressed button would swallow the click.
  function play(event) {
    const card = event.target.closest && event.target.closest("a.card");
    if (!card || !card.dataset.play) return;
    requestAnimationFrame(() => {
      const on = (card.matches(":hover") || card.matches(":focus-visible")) && !matchMedia("(prefers-reduced-motion: reduce)").matches;
      const playing = card.querySelector("video");
      if (!on && playing) playing.remove();
      if (!on || playing) return;
      const video = Object.assign(document.createElement("video"), { src: card.dataset.play, muted: true, loop: true, autoplay: true, playsInline: true });
      video.setAttribute("aria-hidden", "true");
      card.querySelector(".poster").append(video);
    });
  }

  // A job that was seen at work is done: what it took is known, and the forecast is a better one.
  let working = null;
  function finished({ job, state }) {
    if (state === "done" && working === job && document.querySelector("#forecast .forecast:not(.problem)")) send("forecast");
    working = ["done", "failed", "cancelled", "idle"].includes(state) ? null : job;
  }

  window.sprocket = {
    // The relay panel hands over its way to the server.
    start(way) {
      trigger = way;
      if (busy === "opening") begin("opening");
      next();
    },
    answered,
    // Something that the source panel shows was changed; where it shows no file, only another model matters.
    source(model = "") { if (model || document.querySelector('#source [data-has="1"]')) send("source", { model }); },
    // One clip or a frame rate: the images it passes through appear or go.
    length() { send("length"); },
    // The timer has ticked. Who waits comes first.
    poll() { pulse(); },
    // After each redraw of the header or the screen: address and title say the same as the page.
    sync(element) {
      const place = element.querySelector("[data-address]");
      if (place && moving) history.replaceState(null, "", place.dataset.address);
      if (element.querySelector(".train-form, [data-address]")) moving = false;
      element.querySelectorAll("input[data-change]").forEach((slider) => { slider.value = slider.getAttribute("value"); });
      if (element.querySelector(".forecast")) stale();
      refined(element);
      const stage = element.querySelector(".stage");
      show(viewOf(location.search));
      if (!stage) return;
      finished(stage.dataset);
      document.title = stage.dataset.title + "Sprocket";
      const address = new URLSearchParams(location.search);
      if (viewOf(location.search) === "create" && stage.dataset.job && address.get("job") !== stage.dataset.job) {
        address.set("view", "create");
        address.set("job", stage.dataset.job);
        history.replaceState(null, "", "/?" + address);
        if (stage.dataset.state !== "done" && innerWidth < 900) element.scrollIntoView({ behavior: "smooth", block: "start" });
      }
    },
    dice() {
      const [high, low] = crypto.getRandomValues(new Uint32Array(2));
      return String(BigInt(high & 0x1fffff) * 4294967296n + BigInt(low));
    },
  };

  show(viewOf(location.search));
  document.addEventListener("click", onClick);
  document.addEventListener("click", onGenerate, true);
  document.addEventListener("input", (event) => { if (busy === "opening" && event.target.closest("#form")) typed.set(event.target, event.target.value); }, true);
  document.addEventListener("input", (event) => { if (event.target.matches(".extend input[type=range]")) scrub(event.target); });
  document.addEventListener("input", (event) => {  // what a slider says while it moves; it is sent when let go
    if ("change" in event.target.dataset || "shown" in event.target.dataset) event.target.closest("label").querySelector("output").textContent = event.target.value;
  });
  for (const name of ["pause", "seeked"]) document.addEventListener(name, (event) => { if (event.target.matches("video.result")) frameOf(event.target); }, true);
  document.addEventListener("submit", onSubmit);
  document.addEventListener("change", (event) => {
    const { change, name } = event.target.dataset;
    if (change) return send(change, { name, value: event.target.value });
    const form = event.target.closest('form.filters[data-act="search"]');  // what changes something waits for its button
    if (form && event.target.name !== "words") form.requestSubmit();
  });
  document.addEventListener("keydown", onKey);
  for (const name of ["mouseover", "mouseout", "focusin", "focusout"]) document.addEventListener(name, play);
  document.addEventListener("dragover", (event) => {
    if (event.dataTransfer && [...event.dataTransfer.types].includes("Files")) {
      event.preventDefault();
      document.documentElement.classList.add("dropping");
    }
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.documentElement.classList.remove("dropping"); });
  document.addEventListener("drop", onDrop, true);
  window.addEventListener("popstate", () => { show(viewOf(location.search)); send("go"); });

  const chosen = localStorage.getItem(THEME);
  const ready = () => {
    if (chosen && !new URLSearchParams(location.search).has("__theme")) dark(chosen === "dark");
  };
  document.body ? ready() : document.addEventListener("DOMContentLoaded", ready);
  new MutationObserver((_, observer) => { if (document.querySelector("#header .top")) { observer.disconnect(); ready(); show(viewOf(location.search)); } })
    .observe(document.documentElement, { childList: true, subtree: true });
})();
